//! `understudy authorized-key`: the line that confines a main's ssh key.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use understudy_protocol::{MainName, escape};

use crate::arguments::AuthorizedKey;
use crate::exit::{Code, CommandError};
use crate::receiver_config::{self, ReceiverConfig};
use crate::report::Report;
use crate::ssh::words;

/// More than any public key takes.
const KEY_BYTES: u64 = 16 * 1024;

/// Prints the line.
pub(crate) fn run(arguments: &AuthorizedKey) -> Result<Report, CommandError> {
    let key = read(&arguments.key)?;
    let key = check(&key).map_err(|why| {
        CommandError::usage(
            format!("`{}` is no public key of ssh: {why}", shown(&arguments.key)),
            "give the main's public key, such as /etc/understudy/ssh_key.pub there; `ssh-keygen -t ed25519 -f /etc/understudy/ssh_key -N ''` makes one",
        )
    })?;
    let program = std::env::current_exe().map_err(|error| {
        CommandError::failed(format!("cannot tell where understudy is: {error}"))
    })?;
    let (store, config) = places(arguments)?;
    let command = command(&program, &arguments.main, &store, config.as_deref());
    let command = quoted(&command).map_err(|why| {
        CommandError::usage(why, "give the store or the configuration another path")
    })?;
    let line = format!("restrict,command=\"{command}\" {key}");
    Ok(Report::done(json!({ "line": line }), vec![line]))
}

/// The store and the configuration, absolute: the command runs in another directory.
fn places(arguments: &AuthorizedKey) -> Result<(PathBuf, Option<PathBuf>), CommandError> {
    let config = receiver_config::chosen(arguments.config.as_deref(), arguments.store.as_deref());
    let store = match (&arguments.store, &config) {
        (Some(store), _) => Some(store.clone()),
        (None, Some(config)) => ReceiverConfig::load(config)?.store,
        (None, None) => None,
    };
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| {
            let path = shown(path);
            CommandError::usage(
                format!("cannot use the path `{path}`: {error}"),
                "write it from / on",
            )
        })
    };
    let store = absolute(&store.ok_or_else(receiver_config::no_store)?)?;
    Ok((store, config.as_deref().map(absolute).transpose()?))
}

fn command(program: &Path, main: &MainName, store: &Path, config: Option<&Path>) -> OsString {
    let word = OsStr::new;
    let mut line = vec![program.as_os_str(), word("receiver"), word("--stdio")];
    line.extend([word("--store"), store.as_os_str()]);
    if let Some(config) = config {
        line.extend([word("--config"), config.as_os_str()]);
    }
    line.extend([word("--main"), word(main.as_str())]);
    words::join(line)
}

/// The command as it stands between the quotes of an option of `authorized_keys`.
fn quoted(command: &OsStr) -> Result<String, String> {
    let unfit = || {
        let command = escape(command.as_bytes());
        format!("`{command}` does not fit into a line of authorized_keys")
    };
    let command = command.to_str().ok_or_else(unfit)?;
    // sshd knows one escape, that of the quote: a backslash before one could not be told from it.
    if command.contains('\n') || command.contains("\\\"") || command.ends_with('\\') {
        return Err(unfit());
    }
    Ok(command.replace('"', "\\\""))
}

fn read(path: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(KEY_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(KEY_BYTES).read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|error| {
        CommandError::new(
            Code::Usage,
            format!("cannot read the key `{}`: {error}", shown(path)),
            "give the file with the main's public key, or `-` for stdin",
        )
    })
}

/// The key in one line, without options of its own.
fn check(text: &str) -> Result<String, &'static str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let key = lines.next().ok_or("it is empty")?;
    if lines.next().is_some() {
        return Err(if key.contains("PRIVATE KEY") {
            "it is a private one, which must not leave its host"
        } else {
            "it is more than one line"
        });
    }
    if key.chars().any(char::is_control) {
        return Err("it holds a control character");
    }
    let mut parts = key.split_ascii_whitespace();
    let (kind, blob) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let is_kind = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|prefix| kind.starts_with(prefix))
        && kind
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.@".contains(&byte));
    let is_blob = blob.starts_with("AAAA")
        && blob
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    if is_kind && is_blob {
        Ok(key.to_owned())
    } else {
        Err("it does not begin with the kind of key and the key, as in `ssh-ed25519 AAAA...`")
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_one_line_without_options() {
        for key in [
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx root@web1\n",
            "\necdsa-sha2-nistp256 AAAAE2Vj+/== \"a\" comment\n\n",
            "sk-ssh-ed25519@openssh.com AAAAGnNr",
        ] {
            assert_eq!(check(key).expect(key), key.trim());
        }
        for key in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 root@web1",
            "command=\"id\" ssh-ed25519 AAAAC3",
            "ssh-ed25519 AAAAC3\nssh-ed25519 AAAAC4",
            "ssh-ed25519 AAAAC3 a\u{7}b",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        ] {
            assert!(check(key).is_err(), "{key}");
        }
        let private = check("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n");
        assert!(private.expect_err("private").contains("private"));
    }

    #[test]
    fn the_command_survives_both_ways_of_quoting() {
        let main = MainName::new("web1").expect("name");
        let line = command(
            Path::new("/usr/bin/understudy"),
            &main,
            Path::new("/a \"b\""),
            None,
        );
        assert_eq!(
            quoted(&line).expect("fits"),
            "/usr/bin/understudy receiver --stdio --store '/a \\\"b\\\"' --main web1"
        );
        // Quotas and guards of another configuration count as well.
        let config = Path::new("/etc/spare 2.toml");
        let line = command(Path::new("/u"), &main, Path::new("/s"), Some(config));
        let line = quoted(&line).expect("fits");
        let written = "/u receiver --stdio --store /s --config '/etc/spare 2.toml' --main web1";
        assert_eq!(line, written);
        for store in ["/a\nb", "/a\\\"b"] {
            let line = command(Path::new("/u"), &main, Path::new(store), None);
            assert!(quoted(&line).is_err(), "{store}");
        }
    }
}
