//! What the engine's errors mean for a person.

use crate::error::DatabaseError;

/// Numbers of the server's and the client's errors, and what to do.
const REMEDIES: [(&[&str], &str); 7] = [
    (
        &["(2002)", "2002:", "ERROR 2002", "(2003)", "ERROR 2003"],
        "The server does not answer: start it, or correct `socket` or `host`",
    ),
    (
        &["ERROR 1045", "error: 1045", "ERROR 1698", "error: 1698"],
        "The server refuses the account: its password was changed, or the account is missing; correct the file named by `defaults_file`",
    ),
    (
        &["ERROR 1049", "error: 1049"],
        "There is no such database: it was removed or renamed, or `database` is wrong",
    ),
    (
        &[
            "ERROR 1044",
            "error: 1044",
            "ERROR 1142",
            "(1142)",
            "(1044)",
            "ERROR 1227",
            "(1227)",
        ],
        "The account lacks a right: the check of the configuration names the GRANT",
    ),
    (
        &[
            "1194",
            "(145)",
            "\"145",
            "errno: 145",
            "ERROR 145",
            "error 145",
        ],
        "A table is crashed: run CHECK TABLE and REPAIR TABLE on the table that is named; until then nothing of this database is dumped",
    ),
    (
        &["2013", "2006", "1927", "1317"],
        "The server ended the connection: it was stopped or has crashed, or somebody killed the session; look into its log. The next cycle tries again",
    ),
    (
        &["1449"],
        "The account that a view or routine is defined by is missing: create it, or change the DEFINER",
    ),
];

/// Says what to do about what a client has said.
pub(super) fn explain(error: DatabaseError, database: &str) -> DatabaseError {
    let DatabaseError::Failed {
        program,
        ended,
        said,
        code,
    } = error
    else {
        return error;
    };
    let matches = |numbers: &[&str]| numbers.iter().any(|number| said.contains(number));
    let remedy = REMEDIES.iter().find(|(numbers, _)| matches(numbers));
    let said = match remedy {
        Some((_, remedy)) => format!("{said}. Database `{database}`: {remedy}"),
        None => format!("{said}. Database `{database}`"),
    };
    DatabaseError::Failed {
        program,
        ended,
        said,
        code,
    }
}

/// Whether the server gave one of these numbers.
pub(super) fn has_number(error: &DatabaseError, numbers: &[&str]) -> bool {
    let has = |said: &str| numbers.iter().any(|number| said.contains(number));
    matches!(error, DatabaseError::Failed { said, .. } if has(said))
}
