use proptest::prelude::*;

use super::*;

const BASE: Offset = Offset(1_000_000_007);

fn set(offsets: impl IntoIterator<Item = i64>) -> OffsetSet {
    offsets
        .into_iter()
        .map(|offset| Offset(BASE.0 + offset))
        .collect()
}

fn outbox() -> Option<TopicId> {
    TopicId::new("qzWZZ0AiS2-KyFasPsl03Q")
}

fn check(note: &CallNote, bytes_max: usize) {
    let text = note.encode(BASE).expect("a note that fits");
    assert!(text.len() <= bytes_max, "{} bytes: {text}", text.len());
    assert!(text.is_ascii());
    assert_eq!(&CallNote::decode(BASE, &text).expect("a note"), note);
}

#[test]
fn open_call_before_a_million_final_ones_is_small() {
    let mut note = CallNote::default();
    check(&note, 0);
    note.finals
        .insert_run(Offset(BASE.0 + 1), Offset(BASE.0 + 1_000_001));
    check(&note, 10);
    note.intents.insert(BASE);
    check(&note, 14);
    note.outbox = outbox();
    check(&note, 37);
}

#[test]
fn note_of_an_earlier_version_has_no_outbox() {
    let note = |outbox| CallNote {
        outbox,
        finals: set([1]),
        intents: OffsetSet::new(),
    };
    assert_eq!(note(None).encode(BASE).as_deref(), Ok("1:bAg:"));
    assert_eq!(CallNote::decode(BASE, "1:bAg:"), Ok(note(None)));
    let text = "2:qzWZZ0AiS2-KyFasPsl03Q:bAg:";
    assert_eq!(note(outbox()).encode(BASE).as_deref(), Ok(text));
    assert_eq!(CallNote::decode(BASE, text), Ok(note(outbox())));
}

#[test]
fn alternating_calls_are_written_as_a_bitmap() {
    let finals = set((1..24_000).step_by(2));
    check(
        &CallNote {
            finals,
            ..CallNote::default()
        },
        4_004,
    );
}

#[test]
fn note_that_exceeds_the_limit_is_refused() {
    let finals = set((1..60_000).step_by(2));
    let error = CallNote {
        finals,
        ..CallNote::default()
    }
    .encode(BASE)
    .expect_err("too long");
    assert_eq!(error.bytes, 10_004);
}

#[test]
fn unreadable_note_is_never_an_empty_note() {
    let check = |text: &str| CallNote::decode(BASE, text).expect_err(text);
    assert_eq!(check("3:rAQE:"), InvalidNote::UnknownVersion("3:rAQE:".into()));
    assert!(matches!(
        check("consumed by the nightly job"),
        InvalidNote::UnknownVersion(_)
    ));
    assert!(matches!(check("\u{e9}"), InvalidNote::UnknownVersion(_)));
    for malformed in [
        "1:",
        "1:rAQE",
        "1:xAQE:",
        "1:rAQE:x",
        "1:r!!:",
        "1:rAQE:rAQE:",
        "2:rAQE:",
        "2::rAQE:",
        "2:no id:rAQE:",
    ] {
        assert!(
            matches!(check(malformed), InvalidNote::Malformed(_)),
            "{malformed}"
        );
    }
    for (lengths, why) in [
        (&[1][..], "a run without its second length"),
        (&[1, 0x80], "a truncated length"),
        (&[1, 0], "a run of no length"),
        (&[1, 1, 0, 1], "two runs that touch"),
        (
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 1],
            "a length of ten septets",
        ),
        (
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1],
            "an offset of more than 63 bits",
        ),
    ] {
        let text = format!("1:r{}:", URL_SAFE_NO_PAD.encode(lengths));
        assert!(matches!(check(&text), InvalidNote::Malformed(_)), "{why}: {text}");
    }
    assert!(matches!(
        check(&format!("1:b{}:", "A".repeat(5_000))),
        InvalidNote::Malformed(_)
    ));
    assert!(matches!(
        CallNote::decode(Offset(i64::MAX), "1:bAQ:"),
        Err(InvalidNote::Malformed(_))
    ));
}

proptest! {
    #[test]
    fn note_round_trips(
        finals in prop::collection::vec((1_i64..100_000, 1_i64..5_000), 0..100),
        intents in prop::collection::btree_set(0_i64..100_000, 0..64),
    ) {
        let mut note = CallNote { outbox: outbox(), finals: OffsetSet::new(), intents: set(intents) };
        for (from, length) in finals {
            note.finals.insert_run(Offset(BASE.0 + from), Offset(BASE.0 + from + length));
        }
        check(&note, NOTE_BYTES_MAX);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "(1:|2:[A-Z]{0,2}:)[rb]?[A-Za-z0-9_-]{0,40}:[rb]?[A-Za-z0-9_-]{0,20}") {
        if let Ok(note) = CallNote::decode(BASE, &text) {
            let again = note.encode(BASE).expect("no longer than it was");
            prop_assert_eq!(CallNote::decode(BASE, &again).expect("a note"), note);
        }
    }

    /// Open calls anywhere in the span, the first of them at the commit position; all others are final.
    #[test]
    fn note_that_always_fits_fits_in_any_order(
        span in prop_oneof![1_u64..30_000, 1_u64..40_000_000],
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..1_500),
        ends in any::<u64>(),
    ) {
        let span_size = usize::try_from(span).expect("small");
        let mut open: std::collections::BTreeSet<usize> = picks.iter().map(|pick| pick.index(span_size)).collect();
        open.insert(0);
        prop_assume!(fits_always(open.len() as u64, span));
        let mut finals = OffsetSet::new();
        let mut from = 0;
        // Some of the open calls have become final since, by the bits of a seed.
        let still_open = open.iter().filter(|at| **at == 0 || (ends >> (**at % 64)) & 1 == 0);
        for at in still_open.chain([&span_size]) {
            finals.insert_run(Offset(BASE.0 + from as i64), Offset(BASE.0 + *at as i64));
            from = at + 1;
        }
        // Any of the open ones have an intent, by another bit of the seed.
        let has_intent = |at: &&usize| (ends >> ((**at + 7) % 64)) & 1 == 0;
        let intents = open.iter().filter(has_intent).map(|at| Offset(BASE.0 + *at as i64)).collect();
        check(&CallNote { outbox: outbox(), finals, intents }, NOTE_BYTES_MAX);
    }
}

#[test]
fn limits_of_open_calls_and_span() {
    assert!(fits_always(498, 500_000));
    assert!(fits_always(300, 500_000_000));
    assert!(fits_always(600, 40_000));
    assert!(!fits_always(1_000, 1_000_000));
    assert!(fits_always(12_192, 12_192));
    assert!(!fits_always(12_201, 12_201));
}
