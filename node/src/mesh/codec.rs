//! One message each way on a stream: its length in four bytes, big-endian, then itself. The length is there because a stream
//! that is dropped ends like one that is finished: without it, no answer would look like an empty one. Memory grows with
//! what has arrived, never with what was announced.

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

/// Carries messages of at most `bytes_max`.
#[derive(Debug, Clone, Copy)]
pub struct Codec {
    /// The longest.
    pub bytes_max: usize,
}

impl Codec {
    /// Reads one message, and nothing after it.
    pub async fn read(self, io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<Bytes> {
        let mut length = [0; 4];
        io.read_exact(&mut length).await?;
        let length = u32::from_be_bytes(length);
        if length as usize > self.bytes_max {
            let found = format!("a message of {length} bytes; {} are allowed", self.bytes_max);
            return Err(io::Error::new(io::ErrorKind::InvalidData, found));
        }
        let mut message = Vec::new();
        io.take(u64::from(length)).read_to_end(&mut message).await?;
        if message.len() < length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(message.into())
    }

    async fn write(self, io: &mut (impl AsyncWrite + Unpin + Send), message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).ok().filter(|&length| length as usize <= self.bytes_max);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        io.write_all(&length.to_be_bytes()).await?;
        io.write_all(message).await
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Bytes;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write(io, &request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write(io, &response).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Option<Bytes> {
        Codec { bytes_max: 3 }.read(&mut futures::io::Cursor::new(bytes)).await.ok()
    }

    #[tokio::test]
    async fn a_message_comes_whole_or_not_at_all() {
        let mut wire = Vec::new();
        Codec { bytes_max: 3 }.write(&mut wire, b"abc").await.unwrap();
        assert_eq!(wire, [0, 0, 0, 3, b'a', b'b', b'c']);
        assert_eq!(read(&wire).await.unwrap(), "abc");
        for cut in 0..wire.len() {
            assert_eq!(read(&wire[..cut]).await, None, "{cut} bytes");
        }
        assert_eq!(read(&[0; 4]).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_is_neither_read_nor_written() {
        assert_eq!(read(&[0, 0, 0, 4, 1, 2, 3, 4]).await, None);
        assert_eq!(read(&[0xff; 64]).await, None);
        assert!(Codec { bytes_max: 3 }.write(&mut Vec::new(), b"abcd").await.is_err());
    }
}
