//! Writing and reading big-endian fields in order: what commands, tables and receipts are made of.
//!
//! Invariant: [`Reader`] never panics on any bytes, and [`Reader::end`] refuses what is left over,
//! so a value has exactly one encoding.
//!
//! Not here: what the fields mean.

/// Bytes that are not what they were taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read")]
pub struct CodecError {
    what: &'static str,
}

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u8(mut self, value: u8) -> Writer {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(mut self, value: u16) -> Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A field that ends with the value: no length.
    pub(crate) fn rest(mut self, bytes: &[u8]) -> Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A `u16` length and the bytes.
    pub(crate) fn short(self, bytes: &[u8]) -> Writer {
        let len = u16::try_from(bytes.len()).expect("a short field was checked against its limit");
        self.u16(len).rest(bytes)
    }

    /// A `u32` length and the bytes.
    pub(crate) fn long(self, bytes: &[u8]) -> Writer {
        let len = u32::try_from(bytes.len()).expect("a long field was checked against its limit");
        self.u32(len).rest(bytes)
    }

    /// A `u32` count and what `write` appends for each item.
    pub(crate) fn list<T>(self, items: &[T], write: impl Fn(Writer, &T) -> Writer) -> Writer {
        let count = u32::try_from(items.len()).expect("a list was checked against its limit");
        items.iter().fold(self.u32(count), write)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes fields off the front.
pub(crate) struct Reader<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// `what` names the value in errors.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, left: bytes }
    }

    pub(crate) fn error(&self) -> CodecError {
        CodecError { what: self.what }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (taken, left) = self.left.split_at_checked(len).ok_or_else(|| self.error())?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take answers exactly as many bytes as asked"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn short(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    pub(crate) fn long(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()?;
        self.take(usize::try_from(len).map_err(|_| self.error())?)
    }

    pub(crate) fn list<T>(
        &mut self,
        read: impl Fn(&mut Reader<'a>) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.u32()?;
        // Grown as it is read: a false count must not reserve memory.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// Refuses another format or kind than the one this program writes.
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), CodecError> {
        if self.u8()? == byte { Ok(()) } else { Err(self.error()) }
    }

    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.left.is_empty() { Ok(()) } else { Err(self.error()) }
    }
}
