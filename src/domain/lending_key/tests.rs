use biscuit_auth::builder::BlockBuilder;
use proptest::prelude::*;

use super::*;

const SEED: [u8; 32] = [7; 32];

fn issuer() -> IssuerKeyPair {
    IssuerKeyPair::from_seed([1; 32])
}

fn noon() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn claims() -> KeyClaims {
    KeyClaims {
        issuer: IssuerId(Uuid::from_u128(1)),
        host: HostId(Uuid::from_u128(2)),
        partition: PartitionId(Uuid::from_u128(3)),
        lease: LeaseId(Uuid::from_u128(4)),
        key: KeyId(Uuid::from_u128(8)),
        epoch: Epoch(5),
        allocation: AllocationDigest([6; 32]),
        borrower: BorrowerId(Uuid::from_u128(7)),
        expires_at: "2026-01-01T13:00:00.123456789Z".parse().unwrap(),
    }
}

fn known() -> KnownPartition {
    let claims = claims();
    KnownPartition {
        host: claims.host,
        partition: claims.partition,
        epoch: claims.epoch,
        allocation: claims.allocation,
    }
}

fn key() -> Secret {
    issue(&issuer(), &claims(), SEED).unwrap()
}

fn read_at(text: &str, now: Timestamp) -> Result<KeyClaims, KeyRefusal> {
    read(text, &[issuer().public_key()], Operation::Jobs, now)
}

/// The key, narrowed (or what somebody takes for it) by a block of Datalog.
fn with_block(key: &Secret, datalog: &str) -> Secret {
    let key = Biscuit::from_base64(key.reveal(), issuer().0.public()).unwrap();
    let block = BlockBuilder::new().code(datalog).unwrap();
    Secret::new(key.append(block).unwrap().to_base64().unwrap())
}

fn assert_costly(datalog: &str) {
    let refusal = read_at(with_block(&key(), datalog).reveal(), noon()).unwrap_err();
    assert!(matches!(refusal, KeyRefusal::Invalid(InvalidKey::CostlyBlock)), "{datalog}: {refusal:?}");
}

#[test]
fn a_key_says_what_was_put_into_it() {
    assert_eq!(read_at(key().reveal(), noon()).unwrap(), claims());
}

#[test]
fn the_same_claims_and_seed_give_the_same_key() {
    assert_eq!(key(), key());
}

#[test]
fn a_key_is_good_until_the_moment_it_expires_and_not_at_it() {
    let last = claims().expires_at - jiff::SignedDuration::from_nanos(1);
    assert!(read_at(key().reveal(), last).is_ok());
    let refusal = read_at(key().reveal(), claims().expires_at).unwrap_err();
    assert!(matches!(refusal, KeyRefusal::Expired { at } if at == claims().expires_at));
}

#[test]
fn a_key_of_another_issuer_is_not_valid() {
    let stranger = IssuerKeyPair::from_seed([2; 32]);
    let read_by = |issuers: &[IssuerPublicKey]| read(key().reveal(), issuers, Operation::Jobs, noon());
    for issuers in [&[][..], &[stranger.public_key()]] {
        let refusal = read_by(issuers).unwrap_err();
        assert!(matches!(refusal, KeyRefusal::Invalid(InvalidKey::NotSigned(_))));
    }
    assert_eq!(read_by(&[stranger.public_key(), issuer().public_key()]).unwrap(), claims());
}

/// A key's encoding (protobuf) has more than one way to say a thing; what is said is signed.
#[test]
fn a_key_with_any_character_changed_is_not_valid_or_says_the_same() {
    let key = key();
    for position in 0..key.reveal().len() {
        for other in *b"ABQg_" {
            let mut text = key.reveal().to_owned().into_bytes();
            text[position] = other;
            match read_at(&String::from_utf8(text).unwrap(), noon()) {
                Ok(read) => assert_eq!(read, claims(), "position {position}"),
                Err(refusal) => assert!(matches!(refusal, KeyRefusal::Invalid(_)), "position {position}"),
            }
        }
    }
}

#[test]
fn each_mismatch_is_its_own_refusal() {
    let other = |change: fn(&mut KnownPartition)| {
        let mut known = known();
        change(&mut known);
        claims().compare(&known)
    };
    assert!(claims().compare(&known()).is_ok());
    assert!(matches!(other(|known| known.host = HostId(Uuid::nil())), Err(KeyRefusal::OtherHost)));
    let partition = other(|known| known.partition = PartitionId(Uuid::nil()));
    assert!(matches!(partition, Err(KeyRefusal::OtherPartition)));
    assert!(matches!(other(|known| known.epoch = Epoch(6)), Err(KeyRefusal::EpochPassed)));
    let allocation = other(|known| known.allocation = AllocationDigest([0; 32]));
    assert!(matches!(allocation, Err(KeyRefusal::AllocationMismatch)));
}

#[test]
fn a_key_of_a_lease_the_host_has_not_heard_of_yet_opens() {
    assert!(claims().compare(&KnownPartition { epoch: Epoch(4), ..known() }).is_ok());
}

#[test]
fn a_holder_can_let_a_key_end_earlier() {
    let narrowed = with_block(&key(), "check if time($now), $now < 2026-01-01T12:30:00Z");
    let half_past: Timestamp = "2026-01-01T12:30:00Z".parse().unwrap();
    let before = half_past - jiff::SignedDuration::from_nanos(1);
    assert_eq!(read_at(narrowed.reveal(), before).unwrap(), claims());
    assert!(matches!(read_at(narrowed.reveal(), half_past), Err(KeyRefusal::Restricted(_))));
}

#[test]
fn a_narrowed_key_can_be_narrowed_again_but_not_widened() {
    let once = with_block(&key(), "check if time($now), $now < 2026-01-01T12:30:00Z");
    let twice = with_block(&once, "check if time($now), $now < 2026-01-01T14:00:00Z");
    let late: Timestamp = "2026-01-01T12:45:00Z".parse().unwrap();
    assert!(read_at(twice.reveal(), noon()).is_ok());
    assert!(matches!(read_at(twice.reveal(), late), Err(KeyRefusal::Restricted(_))));
}

#[test]
fn a_restriction_to_what_the_host_does_not_know_is_kept() {
    let narrowed = with_block(&key(), r#"check if operation("dance")"#);
    assert!(matches!(read_at(narrowed.reveal(), noon()), Err(KeyRefusal::Restricted(_))));
}

#[test]
fn facts_of_an_appended_block_do_not_count() {
    let id = "hex:00000000000000000000000000000009";
    let digest = "hex:0606060606060606060606060606060606060606060606060606060606060606";
    let widened =
        format!(r#"lending_key({id}, {id}, {id}, {id}, {id}, 9, {digest}, {id}, "2099-01-01T00:00:00Z")"#);
    assert_costly(&widened);
    assert_costly(r#"operation("jobs")"#);
    assert_costly("time(2020-01-01T00:00:00Z)");
}

#[test]
fn a_block_that_could_cost_the_host_much_is_refused() {
    assert_costly("a($x) <- time($x)");
    assert_costly("check if time($a), time($b), time($c), time($d), time($e)");
    assert_costly(r#"check if "aaaa".matches("(a*)*b")"#);
    assert_costly("check if {1, 2}.all($x -> {1, 2}.all($y -> $x != $y))");
}

#[test]
fn a_key_that_is_too_long_or_has_too_many_blocks_is_refused() {
    let long = "A".repeat(KEY_LENGTH_MAX + 1);
    assert!(matches!(read_at(&long, noon()), Err(KeyRefusal::Invalid(InvalidKey::TooLong(_)))));
    let many = (0..KEY_BLOCKS_MAX).fold(key(), |key, _| with_block(&key, "check if true"));
    assert!(matches!(read_at(many.reveal(), noon()), Err(KeyRefusal::Invalid(InvalidKey::TooManyBlocks(9)))));
}

fn only(operations: &[Operation]) -> Restriction {
    Restriction { only: Some(operations.iter().copied().collect()), ..Restriction::default() }
}

#[test]
fn a_key_restricted_to_operations_is_good_for_these_and_for_looking() {
    let narrowed = restrict(&key(), &only(&[Operation::Logs, Operation::Console]), SEED).unwrap();
    for operation in Operation::ALL {
        let allowed = [Operation::Look, Operation::Logs, Operation::Console].contains(&operation);
        let read = read(narrowed.reveal(), &[issuer().public_key()], operation, noon());
        assert_eq!(read.is_ok(), allowed, "{operation}");
        assert!(allowed || matches!(read, Err(KeyRefusal::Restricted(_))), "{operation}");
    }
}

#[test]
fn a_key_restricted_in_time_ends_then_and_restrictions_add_up() {
    let until: Timestamp = "2026-01-01T12:30:00.9Z".parse().unwrap();
    let once = restrict(&key(), &Restriction { until: Some(until), only: None }, SEED).unwrap();
    let twice = restrict(&once, &only(&[Operation::Jobs]), SEED).unwrap();
    let half_past: Timestamp = "2026-01-01T12:30:00Z".parse().unwrap();
    assert_eq!(read_at(twice.reveal(), noon()).unwrap(), claims());
    assert!(matches!(read_at(twice.reveal(), half_past), Err(KeyRefusal::Restricted(_))));
    let logs = read(twice.reveal(), &[issuer().public_key()], Operation::Logs, noon());
    assert!(matches!(logs, Err(KeyRefusal::Restricted(_))));
}

#[test]
fn a_key_is_restricted_only_as_far_as_hosts_take_it() {
    let again = |key: Secret, _| restrict(&key, &only(&[Operation::Jobs]), SEED).unwrap();
    let most = (1..KEY_BLOCKS_MAX).fold(key(), again);
    assert!(read_at(most.reveal(), noon()).is_ok());
    assert!(matches!(restrict(&most, &only(&[]), SEED), Err(RestrictError::TooManyBlocks)));
    assert!(matches!(restrict(&key(), &Restriction::default(), SEED), Err(RestrictError::ToNothing)));
    assert!(matches!(restrict(&Secret::new("no key"), &only(&[]), SEED), Err(RestrictError::NotAKey(_))));
}

#[test]
fn whoever_holds_a_key_sees_what_it_opens_and_how_it_was_restricted() {
    let narrowed = restrict(&key(), &only(&[Operation::Logs]), SEED).unwrap();
    let inspected = inspect(narrowed.reveal()).unwrap();
    assert_eq!(inspected.claims, claims());
    assert_eq!(inspected.restrictions.len(), 1);
    assert!(inspected.restrictions[0].contains("logs"), "{inspected:?}");
    assert!(inspect("no key").is_err() && inspect(&"A".repeat(KEY_LENGTH_MAX + 1)).is_err());
}

#[test]
fn operations_are_read_as_they_are_written() {
    for operation in Operation::ALL {
        assert_eq!(operation.to_string().parse(), Ok(operation));
    }
    assert!("dance".parse::<Operation>().is_err());
}

#[test]
fn an_issuers_secret_is_read_as_it_was_written_and_does_not_show() {
    let issuer = issuer();
    let secret = issuer.secret();
    let again = IssuerKeyPair::from_secret(&secret).unwrap();
    assert_eq!(again.public_key(), issuer.public_key());
    assert!(!format!("{issuer:?}").contains(secret.reveal()));
    assert!(IssuerKeyPair::from_secret(&Secret::new("12")).is_err());
}

#[test]
fn a_public_key_is_64_hexadecimal_digits() {
    let text = issuer().public_key().to_string();
    assert_eq!(text.len(), 64);
    assert_eq!(text.parse(), Ok(issuer().public_key()));
    assert_eq!("xyz".parse::<IssuerPublicKey>(), Err(NotAnIssuerKey));
}

proptest! {
    #[test]
    fn arbitrary_text_is_never_a_key_and_never_a_panic(text in ".{0,600}") {
        prop_assert!(read_at(&text, noon()).is_err() && inspect(&text).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_never_a_key_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::URL_SAFE.encode(bytes);
        prop_assert!(read_at(&text, noon()).is_err());
    }

    #[test]
    fn any_claims_are_read_as_they_were_put_in(
        ids in prop::array::uniform6(any::<u128>()),
        epoch in 0..=i64::MAX as u64,
        allocation: [u8; 32],
        seconds in 1..100_000_000i64,
        seed: [u8; 32],
    ) {
        let [issuer_id, host, partition, lease, key_id, borrower] = ids.map(Uuid::from_u128);
        let claims = KeyClaims {
            issuer: IssuerId(issuer_id),
            host: HostId(host),
            partition: PartitionId(partition),
            lease: LeaseId(lease),
            key: KeyId(key_id),
            epoch: Epoch(epoch),
            allocation: AllocationDigest(allocation),
            borrower: BorrowerId(borrower),
            expires_at: noon() + jiff::SignedDuration::from_secs(seconds),
        };
        let key = issue(&issuer(), &claims, seed).unwrap();
        prop_assert_eq!(read_at(key.reveal(), noon()).unwrap(), claims);
    }
}
