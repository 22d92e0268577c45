//! The one thing in an archive that changes though the database has not: the second at which it was made, in the head of `toc.dat`.

/// What every archive says instead, as `pg_restore --list` prints it.
pub(super) const CREATED: &str = "2000-01-01 00:00:00";

const MAGIC: &[u8] = b"PGDMP";
/// Second, minute, hour, day, month from 0, year from 1900, summer time.
const MOMENT: [u8; 7] = [0, 0, 0, 1, 0, 100, 0];
/// The format of a directory.
const DIRECTORY: u8 = 3;

/// Sets the time of the head `head`, and says whether it could: the formats 1.12 to 1.16 are known, with numbers of four bytes. Whether it has
/// worked is for `pg_restore` to say.
pub(super) fn set_moment(head: &mut [u8]) -> bool {
    let Some([1, minor, _, 4, _, DIRECTORY]) =
        head.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk())
    else {
        return false;
    };
    // Since 1.15 the compression is a byte; before it was a number as all others are: a sign, then four bytes, the lowest first.
    let start = match minor {
        12..=14 => 16,
        15 | 16 => 12,
        _ => return false,
    };
    let Some(moment) = head.get_mut(start..start + MOMENT.len() * 5) else {
        return false;
    };
    for (number, value) in moment.chunks_exact_mut(5).zip(MOMENT) {
        number.copy_from_slice(&[0, value, 0, 0, 0]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_alone() {
        for start in [
            &b"PGDMP\x01\x11\x00\x04\x08\x03"[..],
            b"PGDMP\x01\x0e\x00\x08\x08\x03",
            b"PGDMP\x01\x0e\x00\x04\x08\x01",
            b"XGDMP\x01\x0e\x00\x04\x08\x03",
        ] {
            let mut head = [0xaa; 64];
            head[..start.len()].copy_from_slice(start);
            let before = head;
            assert!(!set_moment(&mut head));
            assert_eq!(head, before);
        }
        assert!(!set_moment(
            &mut b"PGDMP\x01\x0e\x00\x04\x08\x03\x00".to_vec()
        ));
    }

    #[test]
    fn the_time_of_both_forms_of_the_head_is_set() {
        for (minor, start) in [(14, 16), (16, 12)] {
            let mut head = [0xaa; 64];
            head[..11].copy_from_slice(&[b'P', b'G', b'D', b'M', b'P', 1, minor, 0, 4, 8, 3]);
            assert!(set_moment(&mut head));
            assert_eq!(&head[start + 15..start + 20], &[0, 1, 0, 0, 0], "the day");
            assert_eq!(
                &head[start + 25..start + 30],
                &[0, 100, 0, 0, 0],
                "the year"
            );
            assert_eq!((head[start - 1], head[start + 35]), (0xaa, 0xaa));
        }
    }
}
