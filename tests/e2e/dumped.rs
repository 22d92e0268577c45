//! What was dumped of databases stands in a snapshot beside the files: it is looked at, restored, practised and verified as they are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::stage::DATASET;
use crate::support::{Kind, Random, Run, Stage, judge, trees};

/// A stage whose newest snapshot has the dumps of two databases, and where they are on the spare.
fn with_dumps() -> (Stage, PathBuf) {
    let stage = Stage::new(Kind::Tcp);
    trees::mixed(&mut Random::new(31), &stage.source, 40);
    fs::write(stage.source.join("later"), "later").unwrap();
    stage.sync().ok();
    let made = stage.path().join("made");
    let mut config = format!(
        "spare = \"{}\"\nstate = \"{}\"\n[pace]\npressure = \"off\"\n[[dataset]]\npath = \"{}\"\nname = \"{DATASET}\"\n",
        stage.spare(),
        stage.state.display(),
        stage.source.display()
    );
    for (name, table) in [("blog", "posts.csv"), ("shop", "orders.csv")] {
        fs::create_dir_all(made.join(name)).unwrap();
        fs::write(made.join(name).join("contents.json"), "{}").unwrap();
        fs::write(made.join(name).join(table), format!("rows of {name}\n")).unwrap();
        let script = format!(
            "case $UNDERSTUDY_PHASE in probe) ;; dump) cp {}/* \\\"$UNDERSTUDY_OUT\\\" ;; *) exit 64 ;; esac",
            made.join(name).display()
        );
        config += &format!(
            "[[dataset.database]]\nengine = \"command\"\nname = \"{name}\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n"
        );
    }
    let file = stage.path().join("agent.toml");
    fs::write(&file, config).unwrap();
    Run::new(["agent", "--once", "--config"]).arg(file).ok();
    let live = stage.dataset().join("live/databases");
    for file in ["blog/contents.json", "blog/posts.csv", "shop/orders.csv"] {
        let read = |root: &Path| fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(read(&live), read(&made));
    }
    (stage, live)
}

#[test]
fn databases_are_restored_with_the_files_of_their_snapshot() {
    let (stage, made) = with_dumps();
    let place = |name: &str| stage.path().join(name);
    fs::create_dir(place("elsewhere")).unwrap();
    // Without the option it is said how to get them.
    let outcome = stage.restore(&place("files")).ok();
    outcome.mentions(&["2 databases", "--databases DIR"]);
    judge::same(&stage.source, &place("files"));

    let rehearsal = stage
        .restore(&place("both"))
        .arg("--databases")
        .arg(place("elsewhere/dumps"));
    let data = rehearsal.arg("--dry-run").data();
    assert_eq!(data["databases"]["restored"]["files"], 4, "{data}");
    assert!(!place("elsewhere/dumps").exists());
    let both = stage
        .restore(&place("both"))
        .arg("--databases")
        .arg(place("elsewhere/dumps"));
    let data = both.data();
    judge::same(&stage.source, &place("both"));
    judge::same(&made, &place("elsewhere/dumps"));
    assert_eq!(data["databases"]["count"], 2, "{data}");
    assert_eq!(data["databases"]["restored"]["files_fetched"], 4, "{data}");

    // What is not empty is left alone, and then nothing else comes either.
    let again = stage
        .restore(&place("again"))
        .arg("--databases")
        .arg(place("elsewhere/dumps"));
    let outcome = again.outcome();
    assert_ne!(outcome.code, Some(0), "{}", outcome.said());
    assert!(!place("again").exists());

    // Of a moment that had none.
    let first = stage
        .restore(&place("first"))
        .args(["--snapshot", "1", "--databases"]);
    let outcome = first.arg(place("elsewhere/none")).ok();
    outcome.mentions(&["has no databases"]);
    assert!(!place("elsewhere/none").exists());

    let all = stage.ask("restore").arg("--all").arg(place("all"));
    all.arg("--databases").arg(place("elsewhere/all")).ok();
    judge::same(&stage.source, &place("all").join(DATASET));
    judge::same(&made, &place("elsewhere/all").join(DATASET));

    let drill = stage
        .ask("drill")
        .arg(DATASET)
        .arg("--state")
        .arg(&stage.state);
    let data = drill.data();
    assert_eq!(
        (&data["dumps"], &data["files_wrong"]),
        (&2.into(), &0.into()),
        "{data}"
    );
}

#[test]
fn databases_have_paths_that_say_so() {
    let (stage, _) = with_dumps();
    let look = |command: &str| stage.ask(command).arg(DATASET);
    look("ls").ok().mentions(&["databases", "later"]);
    look("ls").arg("databases").ok().mentions(&["blog", "shop"]);
    look("ls")
        .arg("-R")
        .ok()
        .mentions(&["databases/shop/orders.csv"]);
    look("cat")
        .arg("databases/shop/orders.csv")
        .ok()
        .mentions(&["rows of shop"]);
    look("find")
        .arg("orders.csv")
        .ok()
        .mentions(&["databases/shop/orders.csv"]);
    look("find")
        .arg("/databases/blog")
        .ok()
        .mentions(&["databases/blog/posts.csv"]);
    look("diff")
        .args(["1", "2"])
        .ok()
        .mentions(&["databases/shop/orders.csv"]);

    let path = stage.dataset().join("live/databases/shop/orders.csv");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "ruin of shop\n").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    let verified = Run::new(["verify"])
        .arg("--spare")
        .arg(&stage.store)
        .outcome();
    assert_eq!(verified.code, Some(9), "{}", verified.said());
    verified.mentions(&["databases/shop/orders.csv"]);
}
