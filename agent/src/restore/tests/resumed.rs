//! Large files that are carried on with.

use understudy_protocol::ProtocolError;
use understudy_protocol::message::RestorePhase;
use understudy_protocol::transport::Channel;

use super::*;

/// A work directory with the beginning of the large file, or of something else.
fn with_beginning(stage: &Stage, target: &Path, change: impl Fn(&mut Vec<u8>)) -> u64 {
    try_restore(stage, &request(stage, target)).expect("restore");
    let work = stage.beside("target.understudy-restore");
    fs::rename(target, &work).expect("rename");
    fs::set_permissions(work.join("d1/deep"), PermissionsExt::from_mode(0o755)).expect("mode");
    fs::remove_file(work.join("d1/deep/er/large")).expect("remove");
    // The first name of the two.
    let large = work.join("second");
    let mut content = fs::read(&large).expect("read");
    let half = content.len() / 2;
    content.truncate(half);
    change(&mut content);
    fs::write(&large, &content).expect("write");
    half as u64
}

#[test]
fn a_large_file_goes_on_inside() {
    let stage = filled();
    let target = stage.beside("target");
    let half = with_beginning(&stage, &target, |_| {});
    let report = try_restore(&stage, &request(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!((report.files_fetched, report.files_reused), (1, 13));
    assert_eq!(report.bytes_fetched, 1_200_000 - half);
}

#[test]
fn a_beginning_that_is_wrong_is_fetched_again() {
    let stage = filled();
    let target = stage.beside("target");
    let half = with_beginning(&stage, &target, |content| content[70_000..].fill(0));
    let report = try_restore(&stage, &request(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(report.files_fetched, 1);
    assert_eq!(report.bytes_fetched, 1_200_000 - half + 1_200_000);
}

#[test]
fn an_older_spare_gives_it_whole() {
    let stage = filled();
    let target = stage.beside("target");
    with_beginning(&stage, &target, |_| {});
    stage.spare().newest = Some(4);
    let report = try_restore(&stage, &request(&stage, &target)).expect("restore");
    assert_restored(&stage, &target);
    assert_eq!(report.bytes_fetched, 1_200_000);
}

#[test]
fn a_cut_connection_is_made_again() {
    for after in [0, 1, 5, 20, 35] {
        let stage = filled();
        let target = stage.beside("target");
        let context = stage.context();
        let mut connections = 0;
        let mut connect = || -> Result<Channel, ProtocolError> {
            connections += 1;
            Ok(stage.channel_cut_after(if connections == 1 { after } else { usize::MAX }))
        };
        let first = connect().expect("channel");
        let report = restore(
            first,
            &request(&stage, &target),
            &context,
            Some(&mut connect),
        );
        let report = report.expect("restore");
        assert_restored(&stage, &target);
        assert_eq!(connections, 2, "after {after}");
        // What is in flight when it is cut comes again.
        assert!(report.bytes_fetched < 2_400_000, "{report:?}");
        let progress = &context.progress;
        assert_eq!(progress.bytes_done(), progress.bytes_total());
        assert_eq!(progress.files_done(), progress.files_total());
        assert_eq!(beside(&stage), ["target"]);
    }
}

#[test]
fn what_is_no_cut_is_told_at_once() {
    let stage = filled();
    stage.spare().position = None;
    let context = stage.context();
    let mut connect = || -> Result<Channel, ProtocolError> { unreachable!("connected again") };
    let result = stage.with_channel(|channel| {
        restore(
            channel,
            &request(&stage, &stage.beside("target")),
            &context,
            Some(&mut connect),
        )
    });
    assert!(
        matches!(result, Err(AgentError::Spare(ProtocolError::Failed(_)))),
        "{result:?}"
    );
}

#[test]
fn the_spare_is_told_how_far_it_is_without_what_was_here() {
    let stage = filled();
    let target = stage.beside("target");
    let cut = stage.channel_cut_after(20);
    restore(cut, &request(&stage, &target), &stage.context(), None).expect_err("cut");
    stage.spare().restoring.clear();
    try_restore(&stage, &request(&stage, &target)).expect("restore");
    let told = std::mem::take(&mut stage.spare().restoring);
    let phases: Vec<_> = told.iter().map(|told| told.phase).collect();
    assert_eq!(phases.first(), Some(&RestorePhase::Checking), "{told:?}");
    let last = told.last().expect("told");
    assert_eq!(last.phase, RestorePhase::Finishing);
    assert!(
        last.who.ends_with(target.to_str().expect("text")),
        "{last:?}"
    );
    assert_eq!(
        (last.files_done, last.bytes_done),
        (last.files_total, last.bytes_total)
    );
    assert!(
        last.bytes_found > 0 && last.bytes_found < last.bytes_done,
        "{last:?}"
    );
    // A spare that is older is told nothing.
    stage.spare().newest = Some(4);
    try_restore(&stage, &request(&stage, &stage.beside("other"))).expect("restore");
    assert_eq!(stage.spare().restoring, []);
}
