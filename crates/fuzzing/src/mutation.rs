//! Mutations of an input.

use proptest::prelude::*;
use proptest::sample::Index;

/// Maximum length of a mutated input, in bytes. A repeated range doubles it at most once more.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of times that a range is repeated: enough to exceed the limits on nesting and names.
const REPEATS_MAX: usize = 300;

/// One change of an input.
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Token(Index, Index),
    Remove(Index, Index),
    Repeat(Index, Index, usize),
    /// The beginning of this input, and the end of another one.
    Splice(Index, Index, Index),
}

impl Arbitrary for Mutation {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let at = any::<Index>;
        prop_oneof![
            1 => (at(), 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            1 => (at(), any::<u8>()).prop_map(|(at, byte)| Self::Set(at, byte)),
            1 => (at(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
            3 => (at(), at()).prop_map(|(at, token)| Self::Token(at, token)),
            1 => (at(), at()).prop_map(|(from, length)| Self::Remove(from, length)),
            1 => (at(), at(), 1..REPEATS_MAX).prop_map(|(from, length, times)| Self::Repeat(from, length, times)),
            1 => (at(), at(), at()).prop_map(|(until, other, from)| Self::Splice(until, other, from)),
        ]
        .boxed()
    }
}

/// Returns one of the inputs after these mutations.
pub(crate) fn mutated(inputs: &[Vec<u8>], index: Index, mutations: &[Mutation], tokens: &[&str]) -> Vec<u8> {
    let mut bytes = index.get(inputs).clone();
    for mutation in mutations {
        if bytes.len() > INPUT_BYTES_MAX {
            break;
        }
        apply(&mut bytes, mutation, inputs, tokens);
    }
    bytes
}

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation, inputs: &[Vec<u8>], tokens: &[&str]) {
    let length = bytes.len();
    // The end is a position, too.
    let position = |index: &Index| index.index(length + 1);
    match mutation {
        Mutation::Flip(at, bit) => {
            if let Some(byte) = bytes.get_mut(position(at)) {
                *byte ^= 1 << bit;
            }
        }
        Mutation::Set(at, value) => {
            if let Some(byte) = bytes.get_mut(position(at)) {
                *byte = *value;
            }
        }
        Mutation::Insert(at, inserted) => insert(bytes, position(at), inserted),
        Mutation::Token(at, token) => {
            if !tokens.is_empty() {
                insert(bytes, position(at), token.get(tokens).as_bytes());
            }
        }
        Mutation::Remove(from, count) => {
            let from = position(from);
            bytes.drain(from..from + count.index(length - from + 1));
        }
        Mutation::Repeat(from, count, times) => {
            let from = position(from);
            let range = bytes[from..from + count.index(length - from + 1)].to_vec();
            let times = (*times).min(INPUT_BYTES_MAX / range.len().max(1));
            insert(bytes, from, &range.repeat(times));
        }
        Mutation::Splice(until, other, from) => {
            let other = other.get(inputs);
            bytes.truncate(position(until));
            bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, inserted: &[u8]) {
    bytes.splice(at..at, inserted.iter().copied());
}
