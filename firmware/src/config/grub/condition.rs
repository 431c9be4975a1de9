//! `test`, also written `[`: what it holds of its words.

use alloc::string::String;

/// `exists` says of a file what an operator asks (`-e`, `-f`, `-d`, `-s`).
pub(super) fn holds(words: &[String], exists: &dyn Fn(&str, &str) -> bool) -> bool {
    words.split(|word| word == "-o").any(|all| all.split(|word| word == "-a").all(|one| single(one, exists)))
}

fn single(words: &[String], exists: &dyn Fn(&str, &str) -> bool) -> bool {
    let negations = words.iter().take_while(|word| *word == "!").count();
    let result = match &words[negations..] {
        [] => false,
        [word] => !word.is_empty(),
        [operator, word] => unary(operator, word, exists),
        [one, operator, other, ..] => binary(one, operator, other),
    };
    result != (negations % 2 == 1)
}

fn unary(operator: &str, word: &str, exists: &dyn Fn(&str, &str) -> bool) -> bool {
    match operator {
        "-n" => !word.is_empty(),
        "-z" => word.is_empty(),
        "-e" | "-f" | "-d" | "-s" => exists(operator, word),
        _ => false,
    }
}

fn binary(one: &str, operator: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<i64>().unwrap_or(0);
    match operator {
        "=" | "==" => one == other,
        "!=" => one != other,
        "-eq" => number(one) == number(other),
        "-ne" => number(one) != number(other),
        "-lt" => number(one) < number(other),
        "-le" => number(one) <= number(other),
        "-gt" => number(one) > number(other),
        "-ge" => number(one) >= number(other),
        _ => false,
    }
}
