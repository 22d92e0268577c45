//! What the spare has of an interrupted upload is not sent again.

use super::delta::noise;
use super::*;
use crate::{Again, SyncReport, sync_again};

const LARGE: usize = 3 << 20;

/// The part of all that is sent which is neither contents nor the beginning of them.
fn assert_sent_at_most(report: &SyncReport, most: usize) {
    assert!(report.bytes_sent <= most as u64, "{report:?}");
}

#[test]
fn small_files_and_large_ones_that_are_left_over_are_named_and_not_sent() {
    let stage = Stage::new();
    let contents: Vec<Vec<u8>> = (0..40).map(|seed| noise(seed * 2 + 1, 20_000)).collect();
    for (number, content) in contents.iter().enumerate() {
        stage.write(&format!("d{}/f{number}", number % 3), content);
    }
    let large = noise(1000, LARGE);
    stage.write("large", &large);
    stage.spare().leftovers = contents[..30].to_vec();
    stage.spare().leftovers.push(large);
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.bytes_resumed, (30 * 20_000 + LARGE) as u64);
    assert_sent_at_most(&report, 11 * 20_000);
    assert!(stage.spare().leftovers.is_empty());
}

#[test]
fn one_leftover_serves_one_file() {
    let stage = Stage::new();
    let content = noise(3, 10_000);
    for name in ["a", "b", "c"] {
        stage.write(name, &content);
    }
    stage.spare().leftovers = vec![content.clone(); 2];
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.bytes_resumed, 20_000);
    let kinds = contents(&stage.changes());
    let count = |kind| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!((count("leftover"), count("inline")), (2, 1));
}

#[test]
fn a_large_file_goes_on_where_it_was_and_its_signature_is_whole() {
    let stage = Stage::new();
    let mut content = noise(5, LARGE);
    // A hole across the end of the beginning, which is no multiple of anything.
    content[1_500_000..1_800_000].fill(0);
    let other = noise(6, LARGE);
    stage.write("other", &other);
    stage.write("large", b"");
    let file = std::fs::File::options()
        .write(true)
        .open(stage.path("large"))
        .expect("open");
    for stretch in [0..1_500_000, 1_800_000..LARGE] {
        let data = &content[stretch.clone()];
        std::os::unix::fs::FileExt::write_all_at(&file, data, stretch.start as u64).expect("write");
    }
    drop(file);
    let most = 1_600_001;
    stage.spare().partials = vec![
        noise(21, 1_000_000),
        content[..1_100_000].to_vec(),
        content[..most].to_vec(),
        // It is longer than anything that begins like it.
        [&content[..], b"more"].concat(),
    ];
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.bytes_resumed, most as u64);
    assert_sent_at_most(&report, 2 * LARGE - most + 20_000);
    // The signature that was made on the way is that of the whole.
    content[0] ^= 1;
    content[LARGE - 1] ^= 1;
    stage.write("large", &content);
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.deltas, 1);
    assert_sent_at_most(&report, 12_000);
}

#[test]
fn a_new_large_file_beside_others_goes_on_where_it_was() {
    let stage = filled();
    let content = noise(9, LARGE);
    stage.write("d1/new", &content);
    stage.spare().partials = vec![content[..2_000_000].to_vec()];
    settle();
    let report = stage.sync_and_compare();
    assert_eq!(report.bytes_resumed, 2_000_000);
    assert_sent_at_most(&report, LARGE - 2_000_000 + 20_000);
}

#[test]
fn a_spare_that_is_wrong_about_its_leftovers_gets_everything_in_the_second_try() {
    let (small, large) = (noise(11, 10_000), noise(12, LARGE));
    let set = |spare: &mut crate::testing::spare::Spare| {
        spare.is_boasting = true;
        spare.leftovers = vec![small.clone()];
        spare.partials = vec![large[..2_000_000].to_vec()];
    };
    for name in ["small", "large"] {
        let stage = Stage::new();
        stage.write(name, if name == "small" { &small } else { &large });
        set(&mut stage.spare());
        settle();
        let error = stage.try_sync().expect_err("boasting");
        let again = crate::again(&error).expect("worth another try");
        assert_eq!(again, Again::WithoutLeftovers, "{error}");
        // It is as wrong as before.
        set(&mut stage.spare());
        let synced = stage
            .with_channel(|channel| sync_again(channel, &stage.source, &stage.context(), again));
        let report = synced.expect("sync");
        assert_eq!((report.leftovers_refused, report.bytes_resumed), (1, 0));
        stage.compare();
    }
}

#[test]
fn a_former_version_of_the_protocol_knows_nothing_of_leftovers() {
    let stage = Stage::new();
    let content = noise(13, 10_000);
    stage.write("a", &content);
    stage.spare().newest = Some(understudy_protocol::version::RESUME - 1);
    stage.spare().leftovers = vec![content];
    settle();
    assert_eq!(stage.sync_and_compare().bytes_resumed, 0);
}
