use super::*;

fn spec() -> JobSpec {
    JobSpec {
        id: JobId([1; 16]),
        argv: vec!["true".into()],
        env: BTreeMap::from([("LANG".into(), "C".into())]),
        working_directory: None,
        stdin: Vec::new(),
        time_limit_ms: None,
    }
}

fn refusal(change: impl FnOnce(&mut JobSpec)) -> JobSpecError {
    let mut spec = spec();
    change(&mut spec);
    spec.validate().unwrap_err()
}

#[test]
fn a_plain_job_is_accepted() {
    assert_eq!(spec().validate(), Ok(()));
}

#[test]
fn a_job_without_a_program_is_refused() {
    assert_eq!(refusal(|spec| spec.argv.clear()), JobSpecError::NoProgram);
    assert_eq!(refusal(|spec| spec.argv = vec![String::new()]), JobSpecError::NoProgram);
}

#[test]
fn nul_bytes_are_refused_wherever_they_hide() {
    assert_eq!(refusal(|spec| spec.argv.push("a\0b".into())), JobSpecError::Nul);
    assert_eq!(refusal(|spec| drop(spec.env.insert("A".into(), "\0".into()))), JobSpecError::Nul);
    assert_eq!(refusal(|spec| drop(spec.env.insert("\0".into(), "a".into()))), JobSpecError::Nul);
    assert_eq!(refusal(|spec| spec.working_directory = Some("/\0".into())), JobSpecError::Nul);
}

#[test]
fn a_variable_needs_a_name_without_an_equals_sign() {
    let named = |name: &str| refusal(|spec| drop(spec.env.insert(name.into(), "1".into())));
    assert_eq!(named(""), JobSpecError::VariableName(String::new()));
    assert_eq!(named("A=B"), JobSpecError::VariableName("A=B".into()));
}

#[test]
fn arguments_and_environment_are_bounded_together() {
    let half = "x".repeat(ARGUMENTS_LIMIT / 2);
    let error = refusal(|spec| {
        spec.argv.push(half.clone());
        spec.env.insert("A".into(), half);
    });
    assert!(matches!(error, JobSpecError::ArgumentsTooLong(length) if length > ARGUMENTS_LIMIT));
}

#[test]
fn the_working_directory_is_bounded() {
    let error = refusal(|spec| spec.working_directory = Some("/".repeat(PATH_LIMIT + 1)));
    assert_eq!(error, JobSpecError::PathTooLong(PATH_LIMIT + 1));
}

#[test]
fn standard_input_is_bounded() {
    let error = refusal(|spec| spec.stdin = vec![0; STDIN_LIMIT + 1]);
    assert_eq!(error, JobSpecError::StdinTooLong(STDIN_LIMIT + 1));
    let mut spec = spec();
    spec.stdin = vec![0; STDIN_LIMIT];
    assert_eq!(spec.validate(), Ok(()));
}

#[test]
fn no_time_at_all_is_refused() {
    assert_eq!(refusal(|spec| spec.time_limit_ms = Some(0)), JobSpecError::NoTime);
}
