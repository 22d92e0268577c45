//! What a failed program means, found in what it said, and what a person can do about it. What is not known here is passed on as it is.

use crate::error::DatabaseError;
use crate::postgres::PostgresSettings;

/// The meaning of what a program said, and what to do: the first whose words are all there.
const MEANINGS: &[(&[&str], &str)] = &[
    (
        &["no space left on device"],
        "the disk is full, or that of the server is. Free some space there; what was written is thrown away",
    ),
    (
        &["password authentication failed"],
        "the server does not accept this role's password. Correct the line HOST:PORT:DATABASE:ROLE:PASSWORD (for a socket HOST is `localhost`) in \
         ~/.pgpass, or in `password_file`",
    ),
    (
        &["no password supplied"],
        "the server wants a password and there is none. Write a line HOST:PORT:DATABASE:ROLE:PASSWORD (for a socket HOST is `localhost`) into \
         ~/.pgpass, or into `password_file`; the file must be readable by its owner only (chmod 600)",
    ),
    (
        &["peer authentication failed"],
        "the server lets a system user in only under the same name. Set `user` to the role of the system user that this runs as, create that \
         role, or map the two in pg_ident.conf",
    ),
    (
        &["no pg_hba.conf entry"],
        "the server lets nobody in from here under that name. Add a line to its pg_hba.conf and reload it",
    ),
    (
        &["database system is starting up"],
        "the server is starting",
    ),
    (
        &["role \"", "\" does not exist"],
        "a role is missing on this server. Correct `user`; where a dump is loaded, create the roles first that its `globals.sql` has",
    ),
    (
        &["database \"", "\" does not exist"],
        "there is no such database. Correct `database`, or create it",
    ),
    (
        &["is the server running"],
        "PostgreSQL does not run, or is elsewhere. Start it (systemctl start postgresql), or correct `host` (for a socket: its directory) and `port`",
    ),
    (
        &["could not translate host name"],
        "the name in `host` is not known here. Correct it; for a socket it is a directory and begins with a slash",
    ),
    (
        &["row-level security"],
        "a table hides rows from this role, so a dump would not be whole. ALTER ROLE ... BYPASSRLS, or dump as the owner of the table",
    ),
    (
        &["permission denied for large object"],
        "the role may not read a large object, and pg_read_all_data does not cover them. Dump as their owner or as a superuser, or set \
         lo_compat_privileges for the role",
    ),
    (
        &["must be owner of"],
        "the role owns too little for that. Load as a superuser, or as the owner of the database who is a member of all roles in it",
    ),
    (
        &["permission denied to create database"],
        "the role may not create databases. ALTER ROLE ... CREATEDB",
    ),
    (
        &["permission denied"],
        "the role may not do that. To dump it needs to read everything: GRANT pg_read_all_data TO it; to load it has to be a superuser, or \
         the owner of all that is loaded",
    ),
    // Which of the two names the limit of a lock has depends on who sets it.
    (&["lock timeout"], LOCKED),
    (&["statement timeout", "lock table"], LOCKED),
    (
        &["could not obtain lock on relation"],
        "a table was about to be altered while it was dumped. The next cycle tries again",
    ),
    (
        &["canceling statement due to conflict with recovery"],
        "this is a standby, and what was read was changed under the dump. Set max_standby_streaming_delay higher, or dump the primary",
    ),
    (
        &["terminating connection"],
        "the server, or an administrator, ended the connection in the middle. What was written is thrown away, and the next cycle tries again",
    ),
    (
        &["server closed the connection unexpectedly"],
        "the server stopped, or was killed, in the middle. See its log; what was written is thrown away, and the next cycle tries again",
    ),
    (
        &["database system is shutting down"],
        "the server is being stopped. Start it again; the next cycle tries again",
    ),
    (
        &["server version mismatch"],
        "these client programs are older than the server. Install those of its version",
    ),
    (
        &["unsupported version", "in file header"],
        "the dump was written by newer client programs than these. Install those of that version",
    ),
    (
        &["unrecognized configuration parameter"],
        "the dump was written by, or for, a newer version than this server is. Upgrade the server to that version",
    ),
    (
        &["extension \"", "is not available"],
        "an extension that the database uses is not installed on this server. Install its package",
    ),
    (
        &["invalid locale name"],
        "this system lacks the locale that the database has. Generate it (Debian: dpkg-reconfigure locales), and restart PostgreSQL",
    ),
    (
        &["division by zero"],
        "another load goes on at the same time, and has taken the place of this one. Load again when it has ended",
    ),
    (
        &["is being accessed by other users"],
        "somebody connects again and again to the database that is to be replaced. Stop that application, or keep it out by pg_hba.conf",
    ),
];

const LOCKED: &str = "somebody holds a table so that it cannot be read, for longer than the limit: a migration, VACUUM FULL or a forgotten transaction. \
     It is found by SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity. The next cycle tries again";

/// The same error with its meaning, for the database `database`.
pub(super) fn explain(
    error: DatabaseError,
    settings: &PostgresSettings,
    database: &str,
) -> DatabaseError {
    let DatabaseError::Failed {
        program,
        ended,
        said,
        code,
    } = error
    else {
        return error;
    };
    let lower = said.to_lowercase();
    let meaning = MEANINGS
        .iter()
        .find(|(words, _)| words.iter().all(|word| lower.contains(word)));
    let Some((_, meaning)) = meaning else {
        return DatabaseError::Failed {
            program,
            ended,
            said,
            code,
        };
    };
    let at = settings.host.as_deref().unwrap_or("the local socket");
    let said = format!("database `{database}` at {at}: {meaning}. It said: {said}");
    match lower.contains("database system is starting up") {
        true => DatabaseError::NotNow(said),
        false => DatabaseError::Failed {
            program,
            ended,
            said,
            code,
        },
    }
}
