//! Inputs that are lists of steps, in postcard. Numbers that matter are of fixed size, so that the fuzzer's changes of
//! them mean something. What is no step is skipped byte by byte: every input is a list of some steps.

use std::iter;

use serde::{Serialize, de::DeserializeOwned};

/// The steps of an input.
pub fn read<T: DeserializeOwned>(mut input: &[u8]) -> impl Iterator<Item = T> {
    iter::from_fn(move || {
        loop {
            match postcard::take_from_bytes(input) {
                Ok((step, rest)) => {
                    input = rest;
                    return Some(step);
                }
                Err(_) => input = input.get(1..)?,
            }
        }
    })
}

/// The input that these steps are.
pub fn written<T: Serialize>(steps: &[T]) -> Vec<u8> {
    steps.iter().fold(vec![], |input, step| postcard::to_extend(step, input).unwrap())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    enum Step {
        Go(#[serde(with = "postcard::fixint::le")] u32),
        Say(Vec<u8>),
    }

    #[test]
    fn steps_are_read_as_they_were_written_and_what_is_none_is_skipped() {
        let steps = [Step::Go(7), Step::Say(b"hello".into())];
        let mut input = written(&steps);
        assert_eq!(read::<Step>(&input).collect::<Vec<_>>(), steps);
        input.splice(0..0, [0xff, 0xfe]);
        assert_eq!(read::<Step>(&input).collect::<Vec<_>>(), steps);
    }
}
