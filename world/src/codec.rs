//! Protobuf over gRPC with buffers of a small message's size.
//!
//! tonic gives every call 8 KiB to encode into and as much to decode from. A put is 200 bytes: its two
//! buffers cost the allocator more than encoding costs, and whoever keeps a field of a request keeps
//! its whole buffer. Larger messages grow theirs.
//!
//! Invariant: the same bytes on the wire as with `tonic_prost::ProstCodec`.
//!
//! Not here: compression; our messages are opaque or small.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// A call's first buffer: most messages of etcd's clients fit, and allocators have this size at hand.
const BUFFER_BYTES: usize = 512;
/// A stream's messages are gathered up to this size before they go to the connection; tonic's own figure.
const GATHER_BYTES: usize = 32 * 1024;

/// What the generated services and clients encode `T` and decode `U` with.
#[derive(Clone, Copy, Debug)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> SmallCodec<T, U> {
        SmallCodec(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, GATHER_BYTES))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, GATHER_BYTES))
    }
}
