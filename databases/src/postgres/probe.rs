//! Whether anything has changed in a server.
//!
//! Every change that has a transaction number becomes visible by leaving the set of transactions that run, and the snapshot says exactly which
//! these are: a commit before it is read is in what a later dump sees, and one after it changes the next snapshot, whether the transaction ran
//! already or not. So it needs no guard of time. The WAL position and the epoch are there for what has no number: a server that was killed
//! comes back without its last asynchronous commits and with empty unlogged tables. In which order the two are read does not matter, for the
//! snapshot alone decides for every commit; one between them only makes the next dump come for nothing.

use crate::error::DatabaseError;
use crate::postgres::Postgres;
use crate::{Limits, Probe};

/// The transactions of the whole server, not of one database. On a standby the snapshot does not name those that run, so nothing is settled.
const QUESTION: &str = "\
SELECT concat_ws(' ',
  (SELECT system_identifier FROM pg_control_system()),
  (SELECT timeline_id FROM pg_control_checkpoint()),
  extract(epoch FROM pg_postmaster_start_time()),
  current_setting('server_version_num'),
  (SELECT oid FROM pg_database WHERE datname = current_database()),
  pg_current_snapshot(),
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END
), NOT pg_is_in_recovery();
";

pub(super) fn probe(postgres: &Postgres) -> Result<Probe, DatabaseError> {
    let Limits { probe: limit, .. } = postgres.limits;
    let answer = postgres.sql(&postgres.settings.database, QUESTION, limit)?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Probe, DatabaseError> {
    match answer.trim_end().rsplit_once('|') {
        Some((token, settled @ ("t" | "f"))) if token.split(' ').count() == 7 => Ok(Probe {
            token: token.to_owned(),
            is_settled: settled == "t",
        }),
        _ => Err(DatabaseError::Incomplete(format!(
            "PostgreSQL's answer to whether anything has changed is not understood: {answer:?}"
        ))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_lacks_a_part_is_no_probe() {
        let probe = parse("7 1 1795792862.7 150018 16384 748:748: 0/1995CF0|t\n").unwrap();
        assert!(probe.is_settled);
        assert!(
            !parse("7 1 1795792862.7 150018 16384 748:748: 0/1995CF0|f\n")
                .unwrap()
                .is_settled
        );
        assert!(parse("7 1 1795792862.7 150018 16384 0/1995CF0|t\n").is_err());
        assert!(parse("").is_err());
    }
}
