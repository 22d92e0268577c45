//! Giving back what the spare has lost: contents that it names by path and hash, if the source still has exactly them.
//!
//! A spare can learn no more by this than what it is sent anyway: only files that the index has are looked at, each once, and one
//! is sent only if it has the very content that the spare can name.

use std::collections::HashSet;
use std::fs::File;

use understudy_protocol::message::{Returned, StreamAbort, StreamBlock, StreamEnd, WantedContent};
use understudy_protocol::{ContentHash, DirectoryId, Message, Name, Place, RelPath};
use understudy_tree::content::{self, Extents, HoleyHasher};
use understudy_tree::{Directory, Kind};

use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::index::{Index, Reader};
use crate::{Context, Source};

/// Answers every content that is wanted; returns how many were sent.
pub(crate) fn give_back(
    wanted: &[WantedContent],
    (source, context): (&Source, &Context),
    root: &Directory,
    index: &Index,
    conversation: &Conversation,
) -> Result<u64, AgentError> {
    let mut given = 0;
    if wanted.is_empty() {
        return Ok(given);
    }
    let reader = index.reader()?;
    let mut looked_at = HashSet::new();
    for (number, one) in wanted.iter().enumerate() {
        if !looked_at.insert(&one.path) {
            continue;
        }
        let giving = Giving {
            wanted: one,
            stream: number as u64,
            context,
            conversation,
        };
        let found = match is_left_out(source, &one.path) {
            true => None,
            false => find(&reader, root, one)?,
        };
        let file = match found {
            Some(file) if giving.is_right(&file)? => file,
            _ => {
                giving.answer(None)?;
                continue;
            }
        };
        tracing::info!(dataset = %source.dataset, "the spare has lost the content of `{}`: sending it", one.path);
        giving.answer(Some(giving.stream))?;
        given += u64::from(giving.send(&file)?);
    }
    Ok(given)
}

/// Whether the dataset does not have what is there. The index may say otherwise: it is what the spare gave, or older than the pattern.
fn is_left_out(source: &Source, path: &RelPath) -> bool {
    source.excludes.covers(path) || source.excludes.excludes(path, Kind::File)
}

/// Opens a file of the dataset that has the right size; `None` if there is none.
fn find(
    reader: &Reader<'_>,
    root: &Directory,
    wanted: &WantedContent,
) -> Result<Option<File>, AgentError> {
    let Some((above, name)) = place_of(reader, &wanted.path)? else {
        return Ok(None);
    };
    let opened = root.open_beneath(&above).and_then(|directory| {
        let stat = directory.stat(&name)?;
        if stat.kind != Kind::File || stat.size != wanted.size {
            return Ok(None);
        }
        directory.open_file(&name).map(Some)
    });
    Ok(opened.unwrap_or_else(|error| {
        tracing::debug!("`{}` is wanted and cannot be opened: {error}", wanted.path);
        None
    }))
}

/// The directory and name of a path that is a file by the index.
fn place_of(reader: &Reader<'_>, path: &RelPath) -> Result<Option<(RelPath, Name)>, AgentError> {
    let (mut directory, mut above) = (DirectoryId::FILES, RelPath::root());
    let mut names = path.as_bytes().split(|&byte| byte == b'/').peekable();
    while let Some(name) = names.next() {
        let Ok(name) = Name::new(name) else {
            return Ok(None);
        };
        let Some(known) = reader.at(&Place::new(directory, name.clone()))? else {
            return Ok(None);
        };
        if names.peek().is_none() {
            let is_file = known.entry.content().is_some();
            return Ok(is_file.then_some((above, name)));
        }
        let Some(id) = known.entry.directory_id() else {
            return Ok(None);
        };
        (directory, above) = (id, above.join(&name));
    }
    Ok(None)
}

/// One of them.
struct Giving<'a> {
    wanted: &'a WantedContent,
    stream: u64,
    context: &'a Context,
    conversation: &'a Conversation,
}

impl Giving<'_> {
    fn answer(&self, stream: Option<u64>) -> Result<(), AgentError> {
        let hash = self.wanted.hash;
        self.conversation
            .tell(&Message::Returned(Returned { hash, stream }))
    }

    /// Whether a file has exactly the content.
    fn is_right(&self, file: &File) -> Result<bool, AgentError> {
        let found = self.read(file, |_, _| Ok(()))?;
        Ok(found == Some(self.wanted.hash))
    }

    /// Sends the content; whether it was still that at the end.
    fn send(&self, file: &File) -> Result<bool, AgentError> {
        let (stream, size) = (self.stream, self.wanted.size);
        let found = self.read(file, |offset, data| {
            self.conversation.tell(&Message::StreamBlock(StreamBlock {
                stream,
                offset,
                data: data.to_vec().into(),
            }))
        })?;
        if found != Some(self.wanted.hash) {
            self.conversation
                .tell(&Message::StreamAbort(StreamAbort { stream }))?;
            return Ok(false);
        }
        let hash = self.wanted.hash;
        self.conversation
            .tell(&Message::StreamEnd(StreamEnd { stream, size, hash }))?;
        Ok(true)
    }

    /// Reads the file and gives each piece of data on; its hash, or `None` if it cannot be read to its end.
    fn read(
        &self,
        file: &File,
        visit: impl Fn(u64, &[u8]) -> Result<(), AgentError>,
    ) -> Result<Option<ContentHash>, AgentError> {
        let size = self.wanted.size;
        let mut hasher = HoleyHasher::default();
        let mut extents = Extents::default();
        let mut start = 0;
        while start < size {
            let end = size.min(start + content::BUFFER_BYTES as u64);
            let mut pieces = Vec::new();
            let read = content::read_stretch(file, &mut extents, start..end, |offset, data| {
                hasher.update(offset, data);
                pieces.push((offset, data.to_vec()));
                Ok(())
            });
            if read.is_err() {
                return Ok(None);
            }
            for (offset, data) in pieces {
                visit(offset, &data)?;
            }
            self.context.pace.breathe(&self.context.cancel)?;
            start = end;
        }
        Ok(Some(hasher.finish(size)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "prepares trees")]

    use understudy_tree::Excludes;

    use super::*;
    use crate::testing::Stage;

    fn wanted(path: &str, content: &[u8]) -> WantedContent {
        WantedContent {
            path: RelPath::new(path.as_bytes()).expect("path"),
            size: content.len() as u64,
            hash: ContentHash::of(content),
        }
    }

    #[test]
    fn what_a_file_of_the_dataset_still_has_is_given_and_nothing_else() {
        let mut stage = Stage::new();
        stage.source.excludes = Excludes::new(&["secret".to_owned()]).expect("patterns");
        let large = vec![7; 3 * content::BUFFER_BYTES + 5];
        stage.write("d/large", &large);
        stage.write("d/small", "small");
        stage.write("d/other", "other");
        stage.write("secret", "secret");
        std::fs::write(stage.beside("outside"), "outside").expect("write");
        std::os::unix::fs::symlink("../outside", stage.path("link")).expect("link");
        std::os::unix::fs::symlink("d", stage.path("e")).expect("link");
        stage.sync();
        stage.spare().wanted = vec![
            wanted("d/large", &large),
            wanted("d/small", b"small"),
            wanted("d/other", b"OTHER"),
            wanted("secret", b"secret"),
            wanted("link", b"outside"),
            wanted("e/small", b"small"),
            wanted("d", b""),
            wanted("gone", b"gone"),
        ];
        stage.sync();
        let given = std::mem::take(&mut stage.spare().returned);
        let given: Vec<Option<Vec<u8>>> = given.into_iter().map(|(_, given)| given).collect();
        let mut expected = vec![Some(large), Some(b"small".to_vec())];
        expected.resize(8, None);
        assert!(given == expected, "{}", given.len());
    }

    #[test]
    fn one_path_is_read_once_however_often_it_is_asked_for() {
        let stage = Stage::new();
        stage.write("file", "content");
        stage.sync_and_compare();
        let hashes = (0..9_u8).map(|number| wanted("file", &[number; 7]));
        stage.spare().wanted = hashes.collect();
        stage.sync_and_compare();
        assert_eq!(stage.spare().returned.len(), 1);
    }
}
