//! Money: integers only. An amount is counted in millionths of its currency's unit.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An ISO 4217 code: three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "server", schema(value_type = String, example = "EUR", pattern = "^[A-Z]{3}$"))]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a currency is three capital letters such as EUR, not {0:?}")]
pub struct NotACurrency(String);

impl FromStr for Currency {
    type Err = NotACurrency;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(NotACurrency(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = NotACurrency;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.to_string()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An amount in millionths of a currency's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct Micros(pub i64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:06}", self.0.unsigned_abs() / 1_000_000, self.0.unsigned_abs() % 1_000_000)
    }
}

/// An amount of one currency: `1.50EUR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Amount {
    pub micros: Micros,
    pub currency: Currency,
}

/// Largest amount that is taken in from outside: a thousand million units. Sums of them do not overflow.
pub const AMOUNT_MAX_MICROS: i64 = 1_000_000_000_000_000;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAnAmount {
    #[error("an amount ends in its currency, such as 1.50EUR, unlike {0:?}")]
    NoCurrency(String),
    #[error(transparent)]
    Currency(#[from] NotACurrency),
    #[error("an amount is a number with at most six decimals, such as 1.50EUR, not {0:?}")]
    Number(String),
    #[error("an amount is at most {max}, not {got:?}", max = Micros(AMOUNT_MAX_MICROS))]
    TooMuch { got: String },
}

impl FromStr for Amount {
    type Err = NotAnAmount;

    fn from_str(text: &str) -> Result<Self, NotAnAmount> {
        let letters = text.find(|c: char| c.is_ascii_alphabetic());
        let letters = letters.ok_or_else(|| NotAnAmount::NoCurrency(text.to_owned()))?;
        let (number, currency) = text.split_at(letters);
        Ok(Self { currency: currency.parse()?, micros: micros(number.trim_end())? })
    }
}

/// Reads a decimal number as whole millionths, exactly.
fn micros(number: &str) -> Result<Micros, NotAnAmount> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > 6 {
        return Err(NotAnAmount::Number(number.to_owned()));
    }
    let micros = format!("{whole}{fraction:0<6}").parse().ok().filter(|micros| *micros <= AMOUNT_MAX_MICROS);
    micros.map(Micros).ok_or_else(|| NotAnAmount::TooMuch { got: number.to_owned() })
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.micros, self.currency)
    }
}

/// What an hour of use costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Millionths of the currency's unit for 3,600 seconds; 0 to [`PRICE_MAX_MICROS`].
    #[cfg_attr(feature = "server", schema(minimum = 0, maximum = 1_000_000_000_000u64))]
    pub per_hour_micros: i64,
    pub currency: Currency,
}

/// Highest price of an hour: a million units. With it no charge of a century can overflow.
pub const PRICE_MAX_MICROS: i64 = 1_000_000_000_000;

/// How time and money are rounded; written in each lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// A second that was begun counts in full; of the product the fraction of a micro-unit is dropped.
    BegunSecond,
}

/// The registry's share of a charge, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct FeeRate(u32);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("a fee is at most 1000000 millionths of the charge, not {0}")]
pub struct FeeTooHigh(u32);

impl FeeRate {
    pub const NONE: Self = Self(0);

    pub fn from_millionths(millionths: u32) -> Result<Self, FeeTooHigh> {
        if millionths <= 1_000_000 { Ok(Self(millionths)) } else { Err(FeeTooHigh(millionths)) }
    }

    pub fn millionths(self) -> u32 {
        self.0
    }

    /// The registry's part of `charge`; the rest is the lender's, so nothing is lost between them (law 7).
    pub fn of(self, charge: Micros) -> Micros {
        Micros(saturated(i128::from(charge.0) * i128::from(self.0) / 1_000_000))
    }
}

impl Price {
    /// The charge for `used`, by `rounding`.
    pub fn charge(&self, used: Duration, rounding: Rounding) -> Micros {
        let seconds = match rounding {
            Rounding::BegunSecond => used.as_secs() + u64::from(used.subsec_nanos() > 0),
        };
        Micros(saturated(i128::from(self.per_hour_micros) * i128::from(seconds) / SECONDS_PER_HOUR))
    }

    /// The longest use whose charge `budget` covers; none: it is never spent.
    pub fn use_paid_by(&self, budget: Micros, rounding: Rounding) -> Option<Duration> {
        if self.per_hour_micros <= 0 {
            return None;
        }
        let seconds = match rounding {
            // The charge is the whole part: all below the next micro-unit is covered.
            Rounding::BegunSecond => {
                ((i128::from(budget.0) + 1) * SECONDS_PER_HOUR - 1) / i128::from(self.per_hour_micros)
            }
        };
        Some(Duration::from_secs(u64::try_from(seconds.max(0)).unwrap_or(u64::MAX)))
    }
}

const SECONDS_PER_HOUR: i128 = 3600;

fn saturated(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn euro_an_hour() -> Price {
        Price { per_hour_micros: 1_000_000, currency: "EUR".parse().unwrap() }
    }

    #[test]
    fn an_hour_costs_its_price() {
        let charge = euro_an_hour().charge(Duration::from_secs(3600), Rounding::BegunSecond);
        assert_eq!(charge, Micros(1_000_000));
    }

    #[test]
    fn a_begun_second_counts_and_a_fraction_of_a_micro_unit_does_not() {
        let charge = euro_an_hour().charge(Duration::from_millis(1001), Rounding::BegunSecond);
        assert_eq!(charge, Micros(2 * 1_000_000 / 3600));
    }

    #[test]
    fn amounts_read_as_units_and_six_digits() {
        assert_eq!(Micros(-1_500_000).to_string(), "-1.500000");
        assert_eq!(Micros(42).to_string(), "0.000042");
    }

    #[test]
    fn amounts_are_read_exactly() {
        let amount: Amount = "0.04EUR".parse().unwrap();
        assert_eq!((amount.micros, amount.to_string().as_str()), (Micros(40_000), "0.040000 EUR"));
        assert_eq!("12 USD".parse::<Amount>().unwrap().micros, Micros(12_000_000));
        for wrong in ["", "1", "EUR", "-1EUR", "1.0000001EUR", "1e3EUR", "0.04Eur", ".5EUR", "1000000001EUR"]
        {
            assert!(wrong.parse::<Amount>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_three_capital_letters_are_a_currency() {
        for wrong in ["", "EU", "eur", "EURO", "E1R", "€€€"] {
            assert_eq!(wrong.parse::<Currency>(), Err(NotACurrency(wrong.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn fee_and_payment_add_up_to_the_charge(charge in 0..i64::MAX, rate in 0..=1_000_000u32) {
            let fee = FeeRate::from_millionths(rate).unwrap().of(Micros(charge));
            prop_assert!((0..=charge).contains(&fee.0));
        }

        #[test]
        fn a_budget_pays_for_the_use_it_covers_and_for_not_one_second_more(
            price in 1..=PRICE_MAX_MICROS, budget in 0..=AMOUNT_MAX_MICROS
        ) {
            let price = Price { per_hour_micros: price, currency: "EUR".parse().unwrap() };
            let paid = price.use_paid_by(Micros(budget), Rounding::BegunSecond).unwrap();
            let charge = |used| price.charge(used, Rounding::BegunSecond);
            prop_assert!(charge(paid) <= Micros(budget));
            prop_assert!(charge(paid + Duration::from_secs(1)) > Micros(budget));
        }

        #[test]
        fn longer_use_never_costs_less(price in 0..=PRICE_MAX_MICROS, used in 0..u64::MAX / 2, more in 0..1000u64) {
            let price = Price { per_hour_micros: price, currency: "EUR".parse().unwrap() };
            let charge = |seconds| price.charge(Duration::from_secs(seconds), Rounding::BegunSecond);
            prop_assert!(charge(used) <= charge(used + more));
        }
    }
}
