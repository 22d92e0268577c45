//! Asking the spare for its datasets, with all their snapshots however many there are.

use understudy_protocol::message::{DatasetStatus, Datasets, List, ListSnapshots};
use understudy_protocol::{DatasetName, Message, ProtocolError, Snapshot, limits, version};

use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;

/// The datasets of the spare; only `dataset` if one is named.
pub(crate) fn datasets(
    conversation: &Conversation,
    dataset: Option<DatasetName>,
) -> Result<Datasets, AgentError> {
    conversation.tell(&Message::List(List { dataset }))?;
    let mut listed = match conversation.hear()? {
        Message::Datasets(listed) => listed,
        other => return Err(unexpected(&other, "Datasets")),
    };
    if conversation.version >= version::LISTING {
        let most = limits::listed_snapshots(listed.datasets.len());
        // With fewer these are all.
        for one in listed
            .datasets
            .iter_mut()
            .filter(|one| one.snapshots.len() >= most)
        {
            complete(conversation, one)?;
        }
    }
    Ok(listed)
}

/// Asks for the snapshots before those that are listed.
fn complete(conversation: &Conversation, listed: &mut DatasetStatus) -> Result<(), AgentError> {
    let Some(oldest) = listed.snapshots.first() else {
        return Ok(());
    };
    let (dataset, before) = (listed.name.clone(), oldest.position.number);
    conversation.tell(&Message::ListSnapshots(ListSnapshots { dataset, before }))?;
    let mut all: Vec<Snapshot> = Vec::new();
    loop {
        match conversation.hear()? {
            Message::Snapshots(more) if !more.snapshots.is_empty() => all.extend(more.snapshots),
            Message::Told(_) => break,
            other => return Err(unexpected(&other, "Snapshots")),
        }
        if all.len() as u64 > limits::SNAPSHOTS {
            let reason = "there are more than a dataset can have";
            return Err(ProtocolError::malformed("Snapshots", reason).into());
        }
    }
    let numbers = all.iter().map(|snapshot| snapshot.position.number);
    if !numbers.chain([before]).is_sorted_by(|one, next| one < next) {
        let reason = "they are not those that were asked for, in their order";
        return Err(ProtocolError::malformed("Snapshots", reason).into());
    }
    all.append(&mut listed.snapshots);
    listed.snapshots = all;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use understudy_protocol::message::{Snapshots, Told};
    use understudy_protocol::transport::{Channel, in_process};
    use understudy_protocol::{Fingerprint, Position};

    use super::*;
    use crate::Cancel;

    fn snapshots(numbers: std::ops::Range<u64>) -> Vec<Snapshot> {
        let snapshot = |number| Snapshot {
            position: Position {
                epoch: 1,
                number,
                fingerprint: Fingerprint([0; 32]),
            },
            committed_seconds: number as i64,
            entries: 1,
            bytes: 1,
        };
        numbers.map(snapshot).collect()
    }

    /// A spare with datasets whose newest snapshots are these, and that answers whoever asks for more with `more`.
    fn spare(newest: Vec<Vec<Snapshot>>, more: Vec<Message>) -> Channel {
        let (ours, mut theirs) = in_process();
        thread::spawn(move || {
            let _ = theirs.greet();
            while let Ok(message) = theirs.incoming.receive_message() {
                let answers = match message {
                    Message::List(_) => {
                        let datasets =
                            newest
                                .iter()
                                .zip(0..)
                                .map(|(snapshots, number)| DatasetStatus {
                                    name: DatasetName::fit(format!("d{number}").as_bytes()),
                                    snapshots: snapshots.clone(),
                                    as_of_seconds: None,
                                    uploading: false,
                                    trouble: None,
                                });
                        vec![Message::Datasets(Datasets {
                            datasets: datasets.collect(),
                            free_bytes: 0,
                            now_seconds: 0,
                        })]
                    }
                    _ => more.clone(),
                };
                for answer in answers {
                    let _ = theirs.outgoing.send_message(&answer);
                }
            }
        });
        ours
    }

    fn listed(newest: Vec<Vec<Snapshot>>, more: Vec<Message>) -> Result<Vec<usize>, AgentError> {
        let conversation = Conversation::open(spare(newest, more), &Cancel::default())?;
        let listed = datasets(&conversation, None)?;
        let counts = listed.datasets.iter().map(|one| one.snapshots.len());
        Ok(counts.collect())
    }

    fn page(numbers: std::ops::Range<u64>) -> Message {
        let snapshots = snapshots(numbers);
        Message::Snapshots(Snapshots { snapshots })
    }

    #[test]
    fn snapshots_that_are_too_many_for_one_answer_are_asked_for() {
        let told = || Message::Told(Told {});
        let pages = vec![page(1..4001), page(4001..4501), told()];
        let all = listed(vec![snapshots(4501..16_501)], pages.clone());
        assert_eq!(all.expect("all"), [16_500]);
        // Half of them each, and one has fewer.
        let two = vec![snapshots(4501..10_501), snapshots(2..3)];
        assert_eq!(listed(two, pages).expect("all"), [10_500, 1]);
        for wrong in [
            vec![page(1..4001), page(4000..4501), told()],
            vec![page(4000..4502), told()],
            vec![page(1..1), told()],
        ] {
            listed(vec![snapshots(4501..16_501)], wrong).expect_err("not what was asked for");
        }
    }
}
