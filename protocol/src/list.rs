//! Lists whose length is looked at before anything is allocated for them: a short message must not become a long list.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use crate::limits;

/// A list of at most `MOST`.
pub(crate) struct AtMost<T, const MOST: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for AtMost<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = ListVisitor::<T, MOST>(PhantomData);
        deserializer.deserialize_seq(visitor).map(Self)
    }
}

struct ListVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for ListVisitor<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        if let Some(length) = elements.size_hint()
            && length > MOST
        {
            return Err(de::Error::invalid_length(length, &self));
        }
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() >= MOST {
                return Err(de::Error::invalid_length(list.len() + 1, &self));
            }
            list.push(element);
        }
        Ok(list)
    }
}

/// What a message may carry of one kind.
pub(crate) fn records<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    AtMost::<T, { limits::RECORDS }>::deserialize(deserializer).map(|list| list.0)
}

/// The pieces of a small content, none of which is empty.
pub(crate) fn pieces<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    AtMost::<T, { limits::INLINE_BYTES }>::deserialize(deserializer).map(|list| list.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_says_it_is_long_is_refused_before_it_is_read() {
        // A count, and nothing of what it counts.
        for count in [4, 1 << 20, u64::MAX] {
            let encoded = postcard::to_stdvec(&count).expect("encode");
            assert!(postcard::from_bytes::<AtMost<u8, 3>>(&encoded).is_err());
        }
        let three = postcard::to_stdvec(&vec![1_u8, 2, 3]).expect("encode");
        let list = postcard::from_bytes::<AtMost<u8, 3>>(&three).expect("three");
        assert_eq!(list.0, [1, 2, 3]);
    }
}
