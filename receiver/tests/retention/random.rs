//! Random histories of syncs, pins and prunes.

use super::*;

#[derive(Debug, Clone)]
enum Edit {
    Write {
        directory: bool,
        name: u8,
        letter: u8,
    },
    Remove {
        directory: bool,
        name: u8,
    },
    Move {
        name: u8,
    },
}

#[derive(Debug, Clone)]
enum Step {
    Sync { edits: Vec<Edit>, is_fuzzy: bool },
    Pass { hours: i64 },
    Pin { which: usize },
    Unpin { which: usize },
    Compress,
    Prune,
}

fn step() -> impl Strategy<Value = Step> {
    let edit = prop_oneof![
        // Few contents, so that they come back.
        4 => (any::<bool>(), 0..4u8, 0..6u8).prop_map(|(directory, name, letter)| Edit::Write { directory, name, letter }),
        2 => (any::<bool>(), 0..4u8).prop_map(|(directory, name)| Edit::Remove { directory, name }),
        1 => (0..3u8).prop_map(|name| Edit::Move { name }),
    ];
    let edits = prop::collection::vec(edit, 0..5);
    prop_oneof![
        8 => (edits, prop::bool::weighted(0.4)).prop_map(|(edits, is_fuzzy)| Step::Sync { edits, is_fuzzy }),
        4 => prop_oneof![0..3i64, 0..60i64, 0..2000i64].prop_map(|hours| Step::Pass { hours }),
        1 => any::<usize>().prop_map(|which| Step::Pin { which }),
        1 => any::<usize>().prop_map(|which| Step::Unpin { which }),
        2 => Just(Step::Compress),
        3 => Just(Step::Prune),
    ]
}

fn changes(history: &History, edits: &[Edit]) -> Vec<Change> {
    let mut made: BTreeMap<Place, Option<Change>> = BTreeMap::new();
    let mut moved = None;
    let at = |is_inside: bool, name: u8| place(if is_inside { 10 } else { 1 }, &format!("f{name}"));
    for edit in edits {
        match *edit {
            Edit::Write {
                directory,
                name,
                letter,
            } => {
                // Some are worth compressing.
                let length = if letter < 4 { 100 } else { 5000 } * usize::from(letter) + 1;
                let text = String::from(char::from(b'a' + letter)).repeat(length);
                let place = at(directory, name);
                made.insert(place.clone(), Some(file(place, &text)));
            }
            Edit::Remove { directory, name } => {
                made.insert(at(directory, name), None);
            }
            Edit::Move { name } => moved = Some(directory(place(1, &format!("d{name}")), 10)),
        }
    }
    let made = made.into_iter().filter_map(|(place, change)| match change {
        Some(change) => Some(change),
        None => history
            .stage
            .entries
            .contains_key(&place)
            .then_some(Change::Remove { place }),
    });
    made.chain(moved).collect()
}

fn run(policy: Policy, steps: &[Step]) {
    let mut history = History::new(policy);
    for step in steps {
        let nth = |which: usize, of: Vec<u64>| of.get(which % of.len().max(1)).copied();
        match step {
            Step::Sync { edits, is_fuzzy } => {
                let changes = changes(&history, edits);
                history.sync(&changes, &[], *is_fuzzy);
            }
            Step::Pass { hours } => history.now += hours * 3600 + 1,
            Step::Pin { which } => {
                let number = nth(*which, history.copies.keys().copied().collect()).expect("one");
                pin(&history.stage.store, &dataset(), number, "why").expect("pin");
                history.pins.insert(number);
            }
            Step::Unpin { which } => {
                if let Some(number) = nth(*which, history.pins.iter().copied().collect()) {
                    unpin(&history.stage.store, &dataset(), number).expect("unpin");
                    history.pins.remove(&number);
                }
            }
            Step::Compress => {
                history.compress();
                history.check();
            }
            Step::Prune => {
                history.prune();
            }
        }
    }
    history.prune();
    history.now += 4000 * DAY;
    history.prune();
    history.now += 4 * DAY;
    history.prune();
    // All that is left is what never goes.
    let healthy = history
        .copies
        .iter()
        .filter(|(_, copy)| !copy.is_fuzzy)
        .count();
    let most = history.pins.len() + 1 + healthy.max(history.policy.newest.get() as usize);
    assert!(history.copies.len() <= most);
}

fn policy() -> impl Strategy<Value = Policy> {
    let hours = |most: u64| (0..most).prop_map(|hours| Duration::from_secs(hours * 3600));
    (
        hours(40),
        hours(100),
        hours(400),
        hours(2000),
        1..30u64,
        1..4u32,
        1..80u64,
    )
        .prop_map(
            |(all, hourly, daily, monthly, minimum_age, newest, grace)| Policy {
                all,
                hourly,
                daily,
                monthly,
                minimum_age: Duration::from_secs(minimum_age * 3600),
                newest: NonZeroU32::new(newest).expect("not zero"),
                grace: Duration::from_secs(grace * 3600),
                ..Policy::default()
            },
        )
}

/// 15 cases unless `PROPTEST_CASES` asks for more.
pub(super) fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(15)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_stays_whole_and_what_belongs_to_nothing_goes(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        run(policy, &steps);
    }
}
