//! Two hosts that have never heard of each other, set up with what the README says and nothing else. The hosts are network
//! namespaces with a wire between them.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::command::tool;
use crate::support::hosts::Host;
use crate::support::needs::needs;
use crate::support::{Daemon, Kind, Run, Stage, judge};

/// The spare's address on the wire.
const SPARE: &str = "192.0.2.1";
const MAIN: &str = "192.0.2.2";

/// The fenced block of the README that follows a mark.
fn block(mark: &str) -> String {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once(&format!("<!-- {mark} -->")).unwrap();
    let block = rest.split("```").nth(1).unwrap();
    block.split_once('\n').unwrap().1.to_owned()
}

/// A line of the README, with other places in it.
fn command(line: &str, places: &[(&str, &str)]) -> Run {
    let words = line.strip_prefix("understudy ").unwrap().split(' ');
    Run::new(words.map(|word| {
        places
            .iter()
            .fold(word.to_owned(), |word, (from, to)| word.replace(from, to))
    }))
}

#[test]
fn two_hosts_are_set_up_in_five_commands() {
    needs!("two_hosts_are_set_up_in_five_commands": "root", "rsync", "ip", "nsenter", "unshare");
    let stage = Stage::new(Kind::Embedded);
    let www = stage.path().join("www");
    for site in ["alpha", "beta"] {
        std::fs::create_dir_all(www.join(site)).unwrap();
        std::fs::write(www.join(site).join("index.html"), site).unwrap();
    }
    std::fs::write(stage.source.join("file"), "file").unwrap();
    let (spare, main) = (Host::new(), Host::new());
    let wire = [
        "link",
        "add",
        "spare",
        "netns",
        &spare.process(),
        "type",
        "veth",
    ];
    let peer = ["peer", "name", "main", "netns", &main.process()];
    tool("ip", wire.iter().chain(&peer));
    spare.connect("spare", SPARE);
    main.connect("main", MAIN);

    let config = stage.path().join("agent.toml");
    let [store, source, config] =
        [&stage.store, &stage.source, &config].map(|path| path.to_str().unwrap().to_owned());
    let (on_spare, on_main) = (block("on-the-spare"), block("on-the-main"));
    let on_spare: Vec<&str> = on_spare.lines().collect();
    let on_main: Vec<&str> = on_main.lines().collect();
    assert_eq!((on_spare.len(), on_main.len()), (2, 3));

    let places = [("/srv/spare", store.as_str())];
    let _receiver = Daemon::launch(&spare.on(command(on_spare[0], &places)));
    let printed = spare.on(command(on_spare[1], &places)).ok().stdout;
    let typed = printed
        .lines()
        .find_map(|line| line.trim().strip_prefix("understudy pair "));
    assert!(typed.unwrap().ends_with(":7433"), "{printed}");
    let code = printed.lines().skip_while(|line| !line.contains("code"));
    let code = code.map(str::trim).find(|line| line.contains('-'));

    let site = www.to_str().unwrap();
    let text = block("agent-configuration")
        .replace("spare.example.org", SPARE)
        .replace("\"/srv/photos\"", &format!("{source:?}"))
        .replace("/var/www", site);
    // What else the machine does must not hold it up.
    let text = format!("{text}\n[pace]\npressure = \"off\"\n");
    std::fs::write(&config, text).unwrap();
    let places = [("spare.example.org", SPARE), ("agent.toml", &config)];
    let run = |line: &str| {
        let run = main.on(command(line, &places));
        run.env("UNDERSTUDY_STATE_DIR", &stage.state)
    };
    // Where nobody is asked.
    let paired = run(on_main[0]).arg("-");
    let paired = paired.given(code.unwrap().as_bytes());
    assert_eq!(paired.code, Some(0), "{paired:?}");
    paired.mentions(&["web1"]);
    run(on_main[1]).ok();
    judge::same(&stage.source, &stage.store.join("source/live/files"));
    judge::same(&www.join("beta"), &stage.store.join("beta/live/files"));
    let daemon = run(on_main[2]).signalled(Duration::from_secs(2), Signal::TERM);
    daemon.ok();
    // Nobody else in the network has any of it.
    let stranger = stage.path().join("stranger");
    let status = Run::new(["status", "--spare", &format!("{SPARE}:7433"), "--state"]);
    main.on(status.arg(&stranger)).expect(7);
}
