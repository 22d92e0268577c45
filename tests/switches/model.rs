//! What must be so, whatever happened: a naive model that knows every write, and where it was when it counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use understudy_agent::{Verification, verify};
use understudy_protocol::message::{Finding, ReadManifest, Repairing};
use understudy_protocol::transport::Channel;
use understudy_protocol::{ContentHash, Message, Node};

use crate::host::{Host, Weather, dataset};

/// What a write puts into a file.
pub(crate) fn content(id: u64) -> String {
    format!("write {id}\n").repeat(1 + id as usize % 40)
}

/// All files of a tree with their contents.
pub(crate) fn files(tree: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut open = vec![tree.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(tree).unwrap().to_str().unwrap();
            files.insert(name.to_owned(), std::fs::read_to_string(&path).unwrap());
        }
    }
    files
}

/// The writes that a tree shows.
pub(crate) fn ids(tree: &Path) -> BTreeSet<u64> {
    let id = |text: &String| {
        let first = text.lines().next()?;
        first.strip_prefix("write ")?.parse().ok()
    };
    files(tree).values().filter_map(id).collect()
}

/// The contents of all snapshots of a host's store, by `(epoch, number)`.
pub(crate) fn kept(host: &Host) -> BTreeMap<(u64, u64), BTreeSet<ContentHash>> {
    if host.stored_standing().is_none() {
        return BTreeMap::new();
    }
    let talk = |channel: Channel| {
        let survey =
            understudy_agent::survey(channel, Some(dataset()), understudy_agent::FuzzyOf::Newest);
        survey.unwrap().listed.datasets
    };
    let listed = host.talk(host, Weather::FINE, talk, || {}).unwrap();
    let mut kept = BTreeMap::new();
    for snapshot in listed.iter().flat_map(|one| &one.snapshots) {
        let at = snapshot.position;
        let read = move |channel| manifest(channel, at.number);
        let contents = host.talk(host, Weather::FINE, read, || {}).unwrap();
        kept.insert((at.epoch, at.number), contents);
    }
    kept
}

fn manifest(mut channel: Channel, number: u64) -> BTreeSet<ContentHash> {
    channel.greet().unwrap();
    let request = ReadManifest {
        dataset: dataset(),
        number: Some(number),
    };
    channel
        .outgoing
        .send_message(&Message::ReadManifest(request))
        .unwrap();
    let mut contents = BTreeSet::new();
    loop {
        match channel.incoming.receive_message().unwrap() {
            Message::Manifest(batch) => {
                let hash = |node: &Node| match node {
                    Node::File { hash, .. } => Some(*hash),
                    _ => None,
                };
                contents.extend(
                    batch
                        .entries
                        .iter()
                        .filter_map(|(_, entry)| hash(&entry.node)),
                );
            }
            Message::ManifestEnd(_) => return contents,
            _ => {}
        }
    }
}

/// What verification finds in a host's store.
pub(crate) fn findings(host: &Host) -> Vec<String> {
    if host.stored_standing().is_none() {
        return Vec::new();
    }
    let talk = |channel: Channel| {
        let mut findings = Vec::new();
        let found =
            |finding: &Finding| findings.push(format!("{}: {}", finding.path, finding.what));
        let manner = Verification {
            repair: Repairing::Never,
            bytes_per_second: None,
        };
        let verified = verify(channel, Some(dataset()), manner, found, |_| {});
        if let Err(error) = verified {
            findings.push(error.to_string());
        }
        findings
    };
    host.talk(host, Weather::FINE, talk, || {}).unwrap()
}
