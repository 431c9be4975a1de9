//! What the README promises, word for word.

use std::{
    fs,
    process::{Command, Output},
};

use crate::world::repository;

/// The README's curl tour.
fn tour() -> String {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```sh tour\n").expect("the README has a tour");
    rest.split_once("```").expect("the tour ends").0.to_owned()
}

fn quickstart(option: &str) -> Output {
    let mut command = Command::new("bash");
    command.arg("examples/quickstart.sh").current_dir(repository());
    if !option.is_empty() {
        command.arg(option);
    }
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_quickstart_tells_the_whole_story_and_the_curl_tour_works_word_for_word() {
    let started = quickstart("--keep");
    assert!(started.status.success(), "{}", text(&started));
    let story = text(&started);
    assert!(story.contains("Linux") && story.contains("charge"), "{story}");

    let tour = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &tour()])
        .current_dir(repository())
        .output()
        .unwrap();
    let stopped = quickstart("--stop");
    let said = text(&tour);
    assert!(tour.status.success(), "{said}");
    assert!(said.contains("Linux 6.12.") && said.contains("\"charge\""), "{said}");
    assert!(stopped.status.success(), "{}", text(&stopped));
}
