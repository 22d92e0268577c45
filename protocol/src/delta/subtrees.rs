//! Merges chaining values of equally large subtrees into the root of a BLAKE3 tree.

use blake3::hazmat::{ChainingValue, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::ContentHash;

/// The left edge of a tree: the values of its complete subtrees, the largest first, as in section 5.1.2 of the BLAKE3 paper.
///
/// A complete pair is merged only when something follows it, because the last merge is the root's and made in another way.
#[derive(Debug, Clone, Default)]
pub(super) struct Subtrees {
    /// One for each bit that is set in `count`, and up to one more per level that waits for what follows.
    stack: Vec<ChainingValue>,
    count: u64,
}

impl Subtrees {
    /// Adds the value of the next subtree. All have the same power of two of chunks; only the last may have fewer.
    pub(super) fn push(&mut self, value: ChainingValue) {
        while self.stack.len() > self.count.count_ones() as usize {
            let Some(merged) = self.merge_last() else {
                break;
            };
            self.stack.push(merged);
        }
        self.stack.push(value);
        self.count += 1;
    }

    /// The hash of the whole, or `None` where there are fewer than two subtrees, whose values do not tell it.
    pub(super) fn root(mut self) -> Option<ContentHash> {
        while self.stack.len() > 2 {
            let merged = self.merge_last()?;
            self.stack.push(merged);
        }
        let [left, right] = self.stack[..] else {
            return None;
        };
        Some(merge_subtrees_root(&left, &right, Mode::Hash).into())
    }

    fn merge_last(&mut self) -> Option<ChainingValue> {
        let right = self.stack.pop()?;
        let left = self.stack.pop()?;
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}
