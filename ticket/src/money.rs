//! Money: whole fen, never a fraction, never a float.
//!
//! ```text
//!   "12.34" yuan  --parse_yuan-->  Fen(1234)  --Display-->  "12.34"
//! ```
//! Invariant: arithmetic is checked. There are no operators on [`Fen`], so money cannot be added
//! up by accident or wrap in silence; who adds says what happens on overflow.
//!
//! Not here: negative amounts (a ledger has two sides), currencies, rounding.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Fen in a yuan.
pub const FEN_PER_YUAN: u64 = 100;

/// An amount of money in fen, 1/100 yuan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fen(u64);

/// A text that is not an amount in yuan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Nothing was written.
    #[error("the amount is empty: write yuan like 12.34, or 0 for nothing")]
    Empty,
    /// A sign before the number.
    #[error("{text:?} has a sign: write the amount without + or -")]
    Signed {
        /// What was written.
        text: String,
    },
    /// More than two digits after the point.
    #[error("{text:?} is finer than a fen: write at most two digits after the point, like 12.34")]
    TooFine {
        /// What was written.
        text: String,
    },
    /// Something that is neither a digit nor one point between digits.
    #[error(
        "{text:?} is not an amount in yuan: write digits and at most one point, like 12.34, without spaces, commas, units or exponents"
    )]
    NotANumber {
        /// What was written.
        text: String,
    },
    /// More than the type can hold.
    #[error("{text:?} is too large: the largest amount is {max} yuan", max = Fen::MAX)]
    TooLarge {
        /// What was written.
        text: String,
    },
}

impl Fen {
    /// No money.
    pub const ZERO: Fen = Fen(0);
    /// The largest amount.
    pub const MAX: Fen = Fen(u64::MAX);

    /// An amount of so many fen.
    #[must_use]
    pub const fn new(fen: u64) -> Fen {
        Fen(fen)
    }

    /// How many fen.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum; `None` when it cannot be held.
    #[must_use]
    pub const fn checked_add(self, other: Fen) -> Option<Fen> {
        match self.0.checked_add(other.0) {
            Some(fen) => Some(Fen(fen)),
            None => None,
        }
    }

    /// What is left after taking `other` away; `None` when there is less than that.
    #[must_use]
    pub const fn checked_sub(self, other: Fen) -> Option<Fen> {
        match self.0.checked_sub(other.0) {
            Some(fen) => Some(Fen(fen)),
            None => None,
        }
    }

    /// `count` times this amount; `None` when it cannot be held.
    #[must_use]
    pub const fn checked_mul(self, count: u64) -> Option<Fen> {
        match self.0.checked_mul(count) {
            Some(fen) => Some(Fen(fen)),
            None => None,
        }
    }

    /// Reads an amount in yuan: `12`, `12.3` or `12.34`.
    ///
    /// # Errors
    /// [`MoneyError`], whose sentence says how to mend the text.
    pub fn parse_yuan(text: &str) -> Result<Fen, MoneyError> {
        let own = || text.to_owned();
        if text.is_empty() {
            return Err(MoneyError::Empty);
        }
        if text.starts_with(['+', '-']) {
            return Err(MoneyError::Signed { text: own() });
        }
        let (yuan, cents) = match text.split_once('.') {
            Some((yuan, cents)) => (yuan, Some(cents)),
            None => (text, None),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(yuan) || !cents.is_none_or(digits) {
            return Err(MoneyError::NotANumber { text: own() });
        }
        let cents: u64 = match cents.unwrap_or("0").as_bytes() {
            [tenth] => u64::from(tenth - b'0') * 10,
            [tenth, hundredth] => u64::from(tenth - b'0') * 10 + u64::from(hundredth - b'0'),
            _ => return Err(MoneyError::TooFine { text: own() }),
        };
        assert!(cents < FEN_PER_YUAN, "two digits are less than a yuan");
        let fen = yuan.parse::<u64>().ok().and_then(|y| y.checked_mul(FEN_PER_YUAN)?.checked_add(cents));
        fen.map(Fen).ok_or_else(|| MoneyError::TooLarge { text: own() })
    }
}

/// The sum of all amounts; `None` when it cannot be held.
#[must_use]
pub fn sum(amounts: impl IntoIterator<Item = Fen>) -> Option<Fen> {
    amounts.into_iter().try_fold(Fen::ZERO, Fen::checked_add)
}

impl fmt::Display for Fen {
    /// As yuan with two digits after the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` keeps widths and alignment of tables working.
        f.pad(&format!("{}.{:02}", self.0 / FEN_PER_YUAN, self.0 % FEN_PER_YUAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn yuan_are_read_to_the_fen() {
        for (text, fen) in
            [("0", 0), ("12", 1_200), ("12.3", 1_230), ("12.34", 1_234), ("0.01", 1), ("007", 700)]
        {
            assert_eq!(Fen::parse_yuan(text), Ok(Fen(fen)), "{text}");
        }
        assert_eq!(Fen::parse_yuan("184467440737095516.15"), Ok(Fen::MAX));
    }

    #[test]
    fn what_is_not_yuan_is_refused_with_its_cure() {
        let check = |text: &str, cure: &str| {
            let error = Fen::parse_yuan(text).expect_err(text).to_string();
            assert!(error.contains(cure), "{text:?}: {error}");
        };
        check("", "is empty");
        check("-1", "without + or -");
        check("+1", "without + or -");
        check("1.234", "at most two digits");
        check("12.340", "at most two digits");
        check("184467440737095516.16", "too large");
        check("99999999999999999999", "too large");
        for text in
            ["1e3", "1,000", " 1", "1 ", ".5", "5.", "1.2.3", "1.-2", "１", "12元", "0x1", "NaN", ".", "1._2"]
        {
            check(text, "digits and at most one point");
        }
    }

    #[test]
    fn money_never_wraps() {
        assert_eq!(Fen::MAX.checked_add(Fen(1)), None);
        assert_eq!(Fen(1).checked_sub(Fen(2)), None);
        assert_eq!(Fen::MAX.checked_mul(2), None);
        assert_eq!(sum([Fen::MAX, Fen(1)]), None);
        assert_eq!(sum([Fen(1), Fen(2), Fen(3)]), Some(Fen(6)));
        assert_eq!(sum([]), Some(Fen::ZERO));
    }

    #[test]
    fn money_in_json_is_whole_fen() {
        assert_eq!(serde_json::to_string(&Fen(1_234)).expect("json"), "1234");
        assert!(serde_json::from_str::<Fen>("12.5").is_err());
        assert!(serde_json::from_str::<Fen>("-1").is_err());
    }

    proptest! {
        #[test]
        fn every_amount_reads_back(fen: u64) {
            prop_assert_eq!(Fen::parse_yuan(&Fen(fen).to_string()), Ok(Fen(fen)));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,24}") {
            let _ = Fen::parse_yuan(&text);
        }
    }
}
