//! Streams of an upload, as the spare in memory takes them.

use understudy_protocol::delta::Signature;
use understudy_protocol::message::{Given, GivenStream, WantRest};
use understudy_protocol::message::{StreamBase, StreamBlock, StreamCopy, StreamEnd, StreamResume};
use understudy_protocol::version;
use understudy_protocol::{Bytes, ContentHash, Failure, FailureCode, Message, Place};

use super::{Spare, Upload, bad_leftover};

impl Spare {
    pub(super) fn give(&self, place: &Place, from: u64) -> Vec<Message> {
        let (entry, file) = &self.entries[place];
        let content = &self.contents[file];
        let (size, hash) = entry.content().expect("a file");
        if size < 64 * 1024 {
            let contents = vec![(place.clone(), content.clone().into())];
            return vec![Message::Given(Given { contents })];
        }
        let stream = *file;
        let mut messages = vec![Message::GivenStream(GivenStream {
            place: place.clone(),
            stream,
        })];
        assert!(from < size, "nothing would come");
        let mut offset = from;
        for data in content[from as usize..].chunks(64 * 1024) {
            let block = StreamBlock {
                stream,
                offset,
                data: data.into(),
            };
            offset += data.len() as u64;
            if data.iter().any(|&byte| byte != 0) {
                messages.push(Message::StreamBlock(block));
            }
        }
        messages.push(Message::StreamEnd(StreamEnd { stream, size, hash }));
        messages
    }

    /// A content as what differs, group by group; one that boasts takes everything for the same.
    pub(super) fn give_changed(&self, wanted: &WantRest, signature: &Bytes) -> Vec<Message> {
        let (entry, file) = &self.entries[&wanted.place];
        let (size, hash) = entry.content().expect("a file");
        let base = Signature::from_bytes(&signature.0).expect("a signature");
        assert!(base.block_size().is_none() && wanted.from < size);
        let stream = *file;
        let place = wanted.place.clone();
        let mut messages = vec![Message::GivenStream(GivenStream { place, stream })];
        let mut start = 0;
        for group in self.contents[file].chunks(base.group_size() as usize) {
            let is_same = self.is_boasting || base.has_at(start, group);
            let end = start + group.len() as u64;
            let offset = start.max(wanted.from);
            if offset < end {
                let data = &group[(offset - start) as usize..];
                messages.push(if is_same {
                    Message::StreamCopy(StreamCopy {
                        stream,
                        offset,
                        from: offset,
                        length: end - offset,
                    })
                } else {
                    Message::StreamBlock(StreamBlock {
                        stream,
                        offset,
                        data: data.into(),
                    })
                });
            }
            start = end;
        }
        messages.push(Message::StreamEnd(StreamEnd { stream, size, hash }));
        messages
    }

    pub(super) fn take_stream(&mut self, message: Message, upload: &mut Upload) -> Vec<Message> {
        match message {
            Message::Returned(returned) => {
                assert!(upload.records.is_empty(), "given back after changes");
                self.returned.push((returned.hash, None));
                self.giving = returned.stream;
                vec![]
            }
            Message::StreamEnd(end) if self.giving == Some(end.stream) => {
                self.take_returned(&end, upload);
                vec![]
            }
            Message::StreamResume(resume) => self.resume(&resume, upload),
            Message::StreamBlock(StreamBlock {
                stream,
                offset,
                data,
            }) => {
                let content = upload.open.entry(stream).or_default();
                assert!(offset >= content.len() as u64, "a stream went backwards");
                content.resize(offset as usize, 0);
                content.extend_from_slice(&data);
                vec![]
            }
            Message::StreamBase(StreamBase { stream, place }) => {
                let (_, file) = &self.entries[&place];
                let base = self.contents[file].clone();
                assert!(!upload.open.contains_key(&stream), "a base comes first");
                assert!(upload.bases.insert(stream, base).is_none(), "one base");
                vec![]
            }
            Message::StreamCopy(StreamCopy {
                stream,
                offset,
                from,
                length,
            }) => {
                let content = upload.open.entry(stream).or_default();
                assert!(offset >= content.len() as u64, "a stream went backwards");
                content.resize(offset as usize, 0);
                let stretch = from as usize..(from + length) as usize;
                content.extend_from_slice(&upload.bases[&stream][stretch]);
                vec![]
            }
            Message::StreamPieces(pieces) => {
                assert!(
                    self.speaks(version::PIECES),
                    "an older version does not know it"
                );
                let said = pieces.into_messages();
                said.flat_map(|message| self.take_stream(message, upload))
                    .collect()
            }
            Message::StreamEnd(end) => Self::end(&end, upload),
            Message::StreamAbort(abort) => {
                upload.open.remove(&abort.stream);
                upload.bases.remove(&abort.stream);
                vec![]
            }
            other => unreachable!("{} is not served", other.name()),
        }
    }
    fn take_returned(&mut self, end: &StreamEnd, upload: &mut Upload) {
        self.giving = None;
        let mut content = upload.open.remove(&end.stream).unwrap_or_default();
        content.resize(end.size as usize, 0);
        let (hash, given) = self.returned.last_mut().expect("an answer");
        assert_eq!((*hash, ContentHash::of(&content)), (end.hash, end.hash));
        *given = Some(content);
    }

    fn resume(&mut self, resume: &StreamResume, upload: &mut Upload) -> Vec<Message> {
        let wanted = (resume.length, resume.hash);
        let is_it = |partial: &Vec<u8>| (partial.len() as u64, ContentHash::of(partial)) == wanted;
        let partial = self.partials.iter().position(is_it);
        let Some(partial) = partial.filter(|_| !self.is_boasting) else {
            return vec![bad_leftover()];
        };
        let partial = self.partials.remove(partial);
        let former = upload.open.insert(resume.stream, partial);
        assert!(former.is_none(), "a beginning comes first");
        vec![]
    }

    fn end(end: &StreamEnd, upload: &mut Upload) -> Vec<Message> {
        let mut content = upload.open.remove(&end.stream).unwrap_or_default();
        content.resize(end.size as usize, 0);
        let has_base = upload.bases.remove(&end.stream).is_some();
        if has_base && ContentHash::of(&content) != end.hash {
            let failure = Failure::new(FailureCode::BadDelta, "bad delta");
            return vec![Message::Failure(failure)];
        }
        assert_eq!(ContentHash::of(&content), end.hash, "hash of a stream");
        let former = upload.ended.insert(end.stream, content);
        assert!(former.is_none(), "a stream ended twice");
        vec![]
    }
}
