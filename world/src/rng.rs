//! Chance as a value that is handed in.
//!
//! [`Seed`] is 32 bytes from which independent, named streams are derived; the same seed and name
//! give the same stream on every machine and with any number of threads. Only [`Seed::from_os`]
//! asks the operating system.
//!
//! Invariant: a stream's output is fixed by its seed, its name and its number: ChaCha8 with the
//! 64-bit stream id, both stable by specification.
//!
//! Not here: cryptographic key generation beyond [`secret_bytes`].

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator used everywhere: fast, portable, seekable.
pub type Stream = ChaCha8Rng;

/// Where a family of random streams begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(pub [u8; 32]);

/// The operating system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no randomness: {0}")]
pub struct EntropyError(String);

impl Seed {
    /// A seed for reproducible work from a number a person typed.
    #[must_use]
    pub fn from_number(number: u64) -> Seed {
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Seed(bytes)
    }

    /// A seed nobody can guess.
    ///
    /// # Errors
    /// When the operating system's generator fails.
    pub fn from_os() -> Result<Seed, EntropyError> {
        Ok(Seed(secret_bytes()?))
    }

    /// The stream with this number. Streams of one seed are independent of each other.
    #[must_use]
    pub fn stream(&self, number: u64) -> Stream {
        let mut stream = ChaCha8Rng::from_seed(self.0);
        stream.set_stream(number);
        stream
    }
}

/// 32 unpredictable bytes from the operating system, for keys and incarnations.
///
/// # Errors
/// When the operating system's generator fails.
pub fn secret_bytes() -> Result<[u8; 32], EntropyError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| EntropyError(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn the_same_seed_and_number_give_the_same_stream() {
        let draw = |seed: u64, number: u64| -> [u8; 16] { Seed::from_number(seed).stream(number).random() };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }

    #[test]
    fn the_operating_system_gives_different_seeds() {
        let first = Seed::from_os().expect("entropy");
        let second = Seed::from_os().expect("entropy");
        assert_ne!(first, second);
    }
}
