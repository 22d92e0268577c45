//! Runs the program that tells people.

use std::os::fd::AsFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use super::document::Document;
use crate::hooks;

/// Runs `command` without a shell, with the facts as variables and on its standard input, and nothing else of this
/// process's environment but PATH. What it prints goes to the log. Killed with its process group after `limit`.
///
/// An error says what happened.
pub(super) async fn run(
    command: &[String],
    document: &Document,
    limit: Duration,
) -> Result<(), String> {
    let log = || {
        std::io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .map(Stdio::from)
    };
    let mut child = hooks::program(command, document.variables())?
        .stdin(Stdio::piped())
        .stdout(log().unwrap_or_else(|_| Stdio::null()))
        .spawn()
        .map_err(|error| hooks::cannot_start(command, &error))?;
    let program = command.first().map_or("", String::as_str);
    let Ok(status) = tokio::time::timeout(limit, feed(&mut child, document.json())).await else {
        hooks::kill(&mut child).await;
        return Err(format!(
            "`{program}` was killed after {} s",
            limit.as_secs()
        ));
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{program}` failed: {status}")),
        Err(error) => Err(format!("cannot wait for `{program}`: {error}")),
    }
}

/// Writes its input while waiting for its end.
async fn feed(child: &mut Child, input: Vec<u8>) -> std::io::Result<ExitStatus> {
    let stdin = child.stdin.take();
    let write = async move {
        if let Some(mut stdin) = stdin {
            // It need not read what the variables have told it.
            let _ = stdin.write_all(&input).await;
        }
    };
    tokio::join!(write, child.wait()).1
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use understudy_protocol::DatasetName;
    use understudy_receiver::alert::{Event, Kind, Notice};

    use super::*;

    fn document() -> Document {
        let notice = Notice {
            dataset: Some(DatasetName::fit(b"site")),
            kind: Kind::Lag,
            event: Event::Raised,
            reason: "it is late".to_owned(),
            since_seconds: 0,
            time_seconds: 60,
            lag_seconds: None,
            lag_limit_seconds: 30,
            failures: 2,
        };
        Document::new(&notice, Path::new("/srv/spare"))
    }

    fn shell(script: &str, limit: Duration) -> Result<(), String> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(run(&command, &document(), limit))
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_command_gets_the_facts_and_nothing_else() {
        let directory = tempfile::tempdir().expect("directory");
        let place = directory.path().display();
        let script = format!("env > {place}/env; cat > {place}/stdin");
        shell(&script, LONG).expect("it works");
        let read = |name| std::fs::read_to_string(directory.path().join(name)).expect(name);
        let environment = read("env");
        for line in [
            "UNDERSTUDY_DATASET=site",
            "UNDERSTUDY_EVENT=raised",
            "UNDERSTUDY_KIND=lag",
            "UNDERSTUDY_LAG_SECONDS=",
            "UNDERSTUDY_FAILURES=2",
            "UNDERSTUDY_STORE=/srv/spare",
        ] {
            assert!(
                environment.lines().any(|found| found == line),
                "{environment}"
            );
        }
        assert!(!environment.contains("CARGO"), "{environment}");
        let facts: serde_json::Value = serde_json::from_str(&read("stdin")).expect("JSON");
        assert_eq!(facts["reason"], "it is late");
        assert_eq!(facts["lag_seconds"], serde_json::Value::Null);
    }

    #[test]
    fn failures_say_why_and_input_that_is_not_read_is_none() {
        assert!(shell("exit 0", LONG).is_ok());
        let error = shell("exit 7", LONG).expect_err("it fails");
        assert!(error.contains('7'), "{error}");
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let missing = ["/no/such/program".to_owned()];
        let error = runtime.block_on(run(&missing, &document(), LONG));
        assert!(error.expect_err("missing").contains("/no/such/program"));
    }

    #[test]
    fn a_hanging_command_is_killed_with_its_children() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("pid");
        let script = format!("sleep 100 & echo $! > {}; wait", file.display());
        let error = shell(&script, Duration::from_secs(3)).expect_err("it hangs");
        assert!(error.contains("killed"), "{error}");
        let text = std::fs::read_to_string(&file).expect("the script ran");
        let child = Path::new("/proc").join(text.trim()).join("stat");
        // Killed, it may wait a moment for whoever reaps orphans.
        let lives = || {
            std::fs::read_to_string(&child)
                .is_ok_and(|stat| !stat.contains(") Z") && !stat.contains(") X"))
        };
        let begun = Instant::now();
        while lives() {
            assert!(begun.elapsed() < LONG, "the child of the command lives on");
            std::thread::yield_now();
        }
    }
}
