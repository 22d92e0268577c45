//! Both daemons as the units start them: an ordinary user with a few capabilities keeps and brings back what belongs to root.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};
use rustix::process::Signal;

use crate::support::command::{binary, tool};
use crate::support::needs::needs;
use crate::support::{Daemon, Kind, Random, Run, Stage, edits, judge, kinds, trees};

/// Debian's `nobody`.
const USER: u32 = 65534;

/// How `setpriv` makes a process that has what a unit gives its own, and `more`.
fn as_unit(name: &str, more: &[&str]) -> Vec<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let text = std::fs::read_to_string(unit.join(name)).unwrap();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().to_owned()
    };
    let ambient = value("AmbientCapabilities=");
    assert_eq!(ambient, value("CapabilityBoundingSet="));
    assert_eq!(value("User="), "understudy");
    let capabilities = ambient.split_whitespace().chain(more.iter().copied());
    let set = capabilities.fold("-all".to_owned(), |set, capability| {
        let name = capability.strip_prefix("CAP_").unwrap().to_lowercase();
        set + ",+" + &name
    });
    vec![
        "setpriv".to_owned(),
        format!("--reuid={USER}"),
        format!("--regid={USER}"),
        "--clear-groups".to_owned(),
        format!("--inh-caps={set}"),
        format!("--ambient-caps={set}"),
        format!("--bounding-set={set}"),
        "--no-new-privs".to_owned(),
    ]
}

/// A stage that the user can enter, with a copy of the command.
fn stage() -> (Stage, PathBuf) {
    let stage = Stage::below(Kind::Embedded, &std::env::temp_dir());
    std::fs::set_permissions(stage.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = stage.path().join("understudy");
    std::fs::copy(binary(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    // Of root, as `mkdir /srv/spare` makes it; and of the user, as systemd makes it.
    std::fs::create_dir(&stage.store).unwrap();
    std::fs::set_permissions(&stage.store, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::create_dir(&stage.state).unwrap();
    std::os::unix::fs::chown(&stage.state, Some(USER), Some(USER)).unwrap();
    (stage, program)
}

/// What root alone can read, and what gives rights.
fn fill(source: &Path) {
    kinds::make(source);
    let root = source.join("of-root");
    std::fs::create_dir(&root).unwrap();
    for (name, mode) in [
        ("secret", 0o600),
        ("closed", 0o000),
        ("set-user-id", 0o4755),
        ("set-group-id", 0o2750),
    ] {
        std::fs::write(root.join(name), name).unwrap();
        std::fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::write(root.join("capable"), "capable").unwrap();
    // cap_net_bind_service=ep, as the kernel stores it.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let path = root.join("capable");
    lsetxattr(path, "security.capability", &capability, XattrFlags::CREATE).unwrap();
    tool(
        "setfacl",
        ["-m", "u:1234:rw", root.join("secret").to_str().unwrap()],
    );
    tool("setfacl", ["-d", "-m", "u:1234:rx", root.to_str().unwrap()]);
    std::fs::write(root.join("of-another"), "of another").unwrap();
    std::os::unix::fs::chown(root.join("of-another"), Some(1234), Some(4321)).unwrap();
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o700)).unwrap();
}

fn add_devices(source: &Path) {
    let devices = source.join("devices");
    std::fs::create_dir(&devices).unwrap();
    for (name, kind) in [
        ("null", FileType::CharacterDevice),
        ("disk", FileType::BlockDevice),
    ] {
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, devices.join(name), kind, mode, makedev(1, 3)).unwrap();
    }
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[test]
fn both_daemons_do_all_of_it_with_what_their_units_give() {
    needs!("both_daemons_do_all_of_it_with_what_their_units_give": "root", "setpriv", "setfacl", "rsync");
    for more in [&[][..], &["CAP_MKNOD"]] {
        let (mut stage, program) = stage();
        fill(&stage.source);
        let makes_devices = !more.is_empty();
        // Names of their own, so that the judge can leave out what is recorded only.
        std::fs::remove_dir_all(stage.source.join("specials")).unwrap();
        add_devices(&stage.source);
        let receiver = as_unit("understudy-receiver.service", more);
        stage.daemon = Some(Daemon::start_with(&stage.store, "127.0.0.1:0", |run| {
            run.program(&program).through(&words(&receiver))
        }));
        let agent = as_unit("understudy-agent.service", &[]);
        let sync =
            |stage: &Stage| -> Run { stage.sync().program(&program).through(&words(&agent)) };
        let judge = |stage: &Stage| {
            // Attributes in `trusted.` cannot be set, and may be missing; `verify` must not take that for damage.
            let mut excluded = vec![kinds::SOCKET, "/attributes/*"];
            if !makes_devices {
                excluded.push("/devices/*");
                let made = std::fs::read_dir(stage.live().join("devices")).unwrap();
                assert_eq!(made.count(), 0);
            }
            let found = judge::rsync(&stage.source, &stage.live(), &excluded);
            assert!(found.is_empty(), "{found}");
        };
        sync(&stage).ok();
        judge(&stage);

        edits::random(&mut Random::new(7), &stage.source.join("mixed"), 15);
        trees::mixed(&mut Random::new(8), &stage.source.join("of-root"), 20);
        std::fs::write(stage.source.join("of-root/set-user-id"), "changed").unwrap();
        let mode = PermissionsExt::from_mode(0o4755);
        std::fs::set_permissions(stage.source.join("of-root/set-user-id"), mode).unwrap();
        for number in [2, 2] {
            let data = sync(&stage).data();
            assert_eq!(data["snapshot"]["number"], number, "{data}");
            assert_eq!(data["unreadable"], serde_json::json!([]), "{data}");
        }
        judge(&stage);
        stage.ask("verify").arg("--state").arg(&stage.state).ok();

        let target = stage.path().join("restored");
        stage.restore(&target).arg("--state").arg(&stage.state).ok();
        judge::same_except(&stage.source, &target, &[kinds::SOCKET]);
        assert_eq!(stage.daemon.take().unwrap().stop(Signal::TERM), Some(0));
    }
}

#[test]
fn the_agent_watches_and_reads_with_what_its_unit_gives() {
    needs!("the_agent_watches_and_reads_with_what_its_unit_gives": "root", "setpriv");
    let (stage, program) = stage();
    std::os::unix::fs::chown(&stage.store, Some(USER), Some(USER)).unwrap();
    let closed = stage.source.join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::write(closed.join("secret"), "secret").unwrap();
    std::fs::set_permissions(closed.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\n",
        stage.store, stage.state, stage.source
    );
    std::fs::write(&config, text).unwrap();
    let agent = as_unit("understudy-agent.service", &[]);
    let run = Run::new(["agent", "--once", "--json", "--config"]).arg(&config);
    let data = run.program(&program).through(&words(&agent)).ok().data();
    assert_eq!(data["datasets"][0]["unreadable"], serde_json::json!([]));
    let copy = stage.store.join("source/live/files/closed/secret");
    assert_eq!(std::fs::read(copy).unwrap(), b"secret");
}

#[test]
fn databases_are_captured_with_what_the_agents_unit_gives() {
    needs!("databases_are_captured_with_what_the_agents_unit_gives": "root", "setpriv");
    let (stage, program) = stage();
    std::os::unix::fs::chown(&stage.store, Some(USER), Some(USER)).unwrap();
    let engine = stage.path().join("engine");
    // A program that gives capabilities away may not see where the dump goes, and prints.
    let text = "#!/bin/sh\n[ $UNDERSTUDY_PHASE = dump ] || exit 64\n\
        echo content > \"$UNDERSTUDY_OUT/of-it\" && cp \"$UNDERSTUDY_OUT/of-it\" \"$UNDERSTUDY_OUT/copied\" &&\n\
        setpriv --inh-caps=-all --ambient-caps=-all echo content\n";
    std::fs::write(&engine, text).unwrap();
    std::fs::set_permissions(&engine, PermissionsExt::from_mode(0o755)).unwrap();
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[pace]\npressure = \"off\"\n[[dataset]]\npath = {:?}\n\
         [[dataset.database]]\nname = \"shop\"\nengine = \"command\"\ncommand = [{engine:?}]\n",
        stage.store, stage.state, stage.source
    );
    std::fs::write(stage.source.join("page"), "page").unwrap();
    std::fs::write(&config, text).unwrap();
    let agent = as_unit("understudy-agent.service", &[]);
    let run = Run::new(["agent", "--once", "--config"]).arg(&config);
    run.program(&program).through(&words(&agent)).ok();
    for file in ["of-it", "copied", "output"] {
        let copy = stage.store.join("source/live/databases/shop").join(file);
        assert_eq!(std::fs::read(copy).unwrap(), b"content\n");
    }
}
