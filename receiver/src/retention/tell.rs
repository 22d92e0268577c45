//! Telling what retention has noted of the snapshots of a dataset.

use std::collections::BTreeMap;

use understudy_protocol::Message;
use understudy_protocol::message::{Flag, LastVerified, Pin, Retained, Retention, RetentionEnd};
use understudy_protocol::transport::Outgoing;

use super::verified;
use crate::access::Permitted;
use crate::error::ReceiverError;
use crate::health;

/// Reasons are short enough for so many in one message.
const BATCH: usize = 200;

/// Answers a `ListRetention`.
pub(crate) fn serve(dataset: &Permitted, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    let mut all: BTreeMap<u64, Retained> = BTreeMap::new();
    if let Some(catalog) = dataset.read_catalog()? {
        for pin in catalog.pins()? {
            let told = Pin {
                reason: pin.reason,
                since_seconds: pin.since_seconds,
            };
            entry(&mut all, pin.snapshot).pin = Some(told);
        }
        for flag in catalog.flags()? {
            let told = Flag {
                since_seconds: flag.flagged_seconds,
                due_seconds: flag.due_seconds,
            };
            entry(&mut all, flag.snapshot).flag = Some(told);
        }
    }
    let all: Vec<Retained> = all.into_values().collect();
    for snapshots in all.chunks(BATCH) {
        let snapshots = snapshots.to_vec();
        outgoing.send_message(&Message::Retention(Retention { snapshots }))?;
    }
    health::tell(dataset, outgoing)?;
    let verified = verified::read(&dataset.control)?.map(|verdict| LastVerified {
        seconds: verdict.seconds,
        findings: verdict.findings,
    });
    Ok(outgoing.send_message(&Message::RetentionEnd(RetentionEnd { verified }))?)
}

fn entry(all: &mut BTreeMap<u64, Retained>, number: u64) -> &mut Retained {
    all.entry(number).or_insert(Retained {
        number,
        pin: None,
        flag: None,
    })
}
