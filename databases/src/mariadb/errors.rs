//! What the engine's errors mean for a person.

use crate::error::DatabaseError;

/// Numbers of the server's and the client's errors, and what to do.
const REMEDIES: [(&[u32], &str); 10] = [
    (
        &[2002, 2003],
        "The server does not answer: start it, or correct `socket` or `host`",
    ),
    (
        &[1045, 1698],
        "The server refuses the account: its password was changed, or the account is missing; correct the file named by `defaults_file`",
    ),
    (
        &[1049],
        "There is no such database: it was removed or renamed, or `database` is wrong",
    ),
    (
        &[1044, 1142, 1227],
        "The account lacks a right: the check of the configuration names the GRANT",
    ),
    (
        &[1194, 1195, 1034, 1035, 126, 127, 130, 144, 145],
        "A table is crashed: run CHECK TABLE and REPAIR TABLE on the table that is named; until then nothing of this database is dumped",
    ),
    (
        &[2013, 2006, 1927, 1317],
        "The server ended the connection: it was stopped or has crashed, or somebody killed the session; look into its log. The next cycle tries again",
    ),
    (
        &[1370],
        "A view calls a function that the account may not run: GRANT EXECUTE on the database to it",
    ),
    (
        &[1356],
        "A view refers to a table, a column or a function that is not there, or its definer lacks a right: correct or DROP the view; until then \
         nothing of this database is dumped",
    ),
    (
        &[1412, 1146],
        "A table was altered or removed while it was dumped, several times in a row. What was written is thrown away, and the next cycle tries again",
    ),
    (
        &[1449],
        "The account that a view or routine is defined by is missing: create it, or change the DEFINER",
    ),
];

/// A signal ended the client.
const KILLED: &str = "Somebody has killed the program, or the kernel did for want of memory (`dmesg` says so). What was written is thrown away, and the \
     next cycle tries again";

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
    let remedy = REMEDIES
        .iter()
        .find(|(numbers, _)| numbers.iter().any(|number| names(&said, *number)));
    let said = match remedy {
        Some((_, remedy)) => format!("{said}. Database `{database}`: {remedy}"),
        None if code.is_none() => format!("{said}. Database `{database}`: {KILLED}"),
        None => format!("{said}. Database `{database}`"),
    };
    DatabaseError::Failed {
        program,
        ended,
        said,
        code,
    }
}

/// Whether a client has named an error: each has a form of its own.
fn names(said: &str, number: u32) -> bool {
    let said = said.to_ascii_lowercase();
    let forms = [
        format!("error {number} "),
        format!("error {number}:"),
        format!("error: {number}:"),
        format!("error: {number} "),
        format!("({number})"),
        format!("errno: {number} "),
        format!("\"{number} "),
    ];
    forms.iter().any(|form| said.contains(form))
}

/// Whether the server gave one of these numbers.
pub(super) fn has_number(error: &DatabaseError, numbers: &[u32]) -> bool {
    let has = |said: &str| numbers.iter().any(|number| names(said, *number));
    matches!(error, DatabaseError::Failed { said, .. } if has(said))
}
