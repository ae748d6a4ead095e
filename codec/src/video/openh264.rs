//! The only file that speaks to the OpenH264 library, and the only unsafe one.
//!
//! The safe crate above the same library cannot change the bitrate of a running encoder, hides the frame type and
//! turns on frame skipping and scene-change keyframes by default, all of which live media needs otherwise; so this is
//! a thin wrapper over the C interface. Rules that keep it sound: the two handles live and die here, every pointer
//! handed to C is to memory that outlives the call, and every pointer C hands back is copied from before the next
//! call, within lengths checked here.

#![expect(unsafe_code, reason = "OpenH264 is a C++ library reached through a table of functions")]

use std::ptr::null_mut;

use openh264_sys2 as sys;

use super::{Config, Error};
use crate::picture::{Picture, SIDE_MAX};
use crate::time::MediaTime;

unsafe extern "C" {
    /// From the library's inside, `codec/common/inc/cpu.h`: what of the processor its assembly uses. On x86 it is
    /// itself in assembly, and without gives 0.
    fn WelsCPUFeatureDetect(processors: *mut i32) -> u32;
}

/// Whether the library was built with the assembly it has for this processor. Without nasm its build leaves it out and
/// says nothing; our build script stops then, but what was built meanwhile stays in the folder of builds.
pub(super) fn is_fast() -> bool {
    let mut processors = 0;
    // SAFETY: the call writes one number, and is the library's own first step.
    let features = unsafe { WelsCPUFeatureDetect(&raw mut processors) };
    features != 0 || !cfg!(any(target_arch = "x86", target_arch = "x86_64"))
}

/// What came out of one picture.
pub(super) struct Encoded {
    /// An IDR picture, parameter sets before it.
    pub(super) keyframe: bool,
    /// The access unit in Annex B form.
    pub(super) bytes: Vec<u8>,
}

/// An encoder for one size.
pub(super) struct Encoder {
    handle: *mut sys::ISVCEncoder,
    width: u32,
    height: u32,
    info: Box<sys::SFrameBSInfo>,
}

// SAFETY: the library keeps no thread-local state and the handle is only ever used through `&mut self`.
unsafe impl Send for Encoder {}

impl Encoder {
    pub(super) fn new(width: u32, height: u32, config: &Config) -> Result<Self, Error> {
        let mut handle: *mut sys::ISVCEncoder = null_mut();
        // SAFETY: the call writes a new handle, or leaves it null and reports failure.
        let code = unsafe { sys::source::APILoader::WelsCreateSVCEncoder(&raw mut handle) };
        if code != 0 || handle.is_null() {
            return Err(Error::Library { what: "making an encoder", code });
        }
        let encoder = Self { handle, width, height, info: Box::default() };
        encoder.initialize(config)?;
        Ok(encoder)
    }

    fn initialize(&self, config: &Config) -> Result<(), Error> {
        let mut quiet = sys::WELS_LOG_QUIET;
        self.set(sys::ENCODER_OPTION_TRACE_LEVEL, &mut quiet, "silencing the encoder")?;

        let mut params = sys::SEncParamExt::default();
        let defaults = self.table().GetDefaultParams.expect("the library's table is complete");
        // SAFETY: `params` is a live structure of the type the function fills.
        check(unsafe { defaults(self.handle, &raw mut params) }, "asking for defaults")?;
        let bitrate = config.bitrate.min(i32::MAX as u32) as i32;
        params.iUsageType = sys::CAMERA_VIDEO_REAL_TIME;
        params.iPicWidth = self.width as i32;
        params.iPicHeight = self.height as i32;
        params.iTargetBitrate = bitrate;
        params.iRCMode = sys::RC_BITRATE_MODE;
        params.fMaxFrameRate = config.fps as f32;
        params.iTemporalLayerNum = 1;
        params.iSpatialLayerNum = 1;
        params.iComplexityMode = sys::LOW_COMPLEXITY;
        // Keyframes come on request only: groups decide, not the encoder.
        params.uiIntraPeriod = 0;
        params.bEnableSceneChangeDetect = false;
        // Every picture given becomes a frame; what cannot be sent is shed later, knowingly.
        params.bEnableFrameSkip = false;
        params.eSpsPpsIdStrategy = sys::CONSTANT_ID;
        params.iEntropyCodingModeFlag = 0;
        params.bEnableLongTermReference = false;
        params.iMultipleThreadIdc = 1;
        params.bEnableDenoise = false;
        params.bEnableBackgroundDetection = true;
        params.bEnableAdaptiveQuant = true;
        params.bEnableFrameCroppingFlag = true;
        params.iIdrBitrateRatio = KEYFRAME_PERCENT;
        let layer = &mut params.sSpatialLayers[0];
        layer.iVideoWidth = self.width as i32;
        layer.iVideoHeight = self.height as i32;
        layer.fFrameRate = config.fps as f32;
        layer.iSpatialBitrate = bitrate;
        layer.iMaxSpatialBitrate = 0;
        layer.uiProfileIdc = sys::PRO_BASELINE;
        layer.uiLevelIdc = 0;
        layer.sSliceArgument.uiSliceMode = sys::SM_SINGLE_SLICE;
        layer.sSliceArgument.uiSliceNum = 1;
        let initialize = self.table().InitializeExt.expect("the library's table is complete");
        // SAFETY: `params` is complete and only read during the call.
        check(unsafe { initialize(self.handle, &raw const params) }, "starting an encoder")
    }

    /// Width and height it was made for.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    pub(super) fn set_bitrate(&mut self, bitrate: u32) -> Result<(), Error> {
        let bitrate = bitrate.clamp(1, i32::MAX as u32) as i32;
        for layer in [sys::SPATIAL_LAYER_ALL, sys::SPATIAL_LAYER_0] {
            let mut info = sys::SBitrateInfo { iLayer: layer, iBitrate: bitrate };
            self.set(sys::ENCODER_OPTION_BITRATE, &mut info, "changing the bitrate")?;
        }
        Ok(())
    }

    pub(super) fn set_fps(&mut self, fps: u32) -> Result<(), Error> {
        let mut rate = fps as f32;
        self.set(sys::ENCODER_OPTION_FRAME_RATE, &mut rate, "changing the frame rate")
    }

    /// Encodes a picture of exactly [`size`](Self::size). `None` when the library chose to make nothing of it.
    pub(super) fn encode(&mut self, picture: &Picture, keyframe: bool) -> Result<Option<Encoded>, Error> {
        assert_eq!((picture.width(), picture.height()), self.size(), "the caller scales");
        if keyframe {
            let force = self.table().ForceIntraFrame.expect("the library's table is complete");
            // SAFETY: the encoder is initialized.
            check(unsafe { force(self.handle, true) }, "asking for a keyframe")?;
        }
        let (width, half) = (self.width as i32, self.width as i32 / 2);
        let source = sys::SSourcePicture {
            iColorFormat: sys::videoFormatI420,
            iStride: [width, half, half, 0],
            // The library does not write to the planes; its structure is only not declared so.
            pData: [
                picture.y.as_ptr().cast_mut(),
                picture.u.as_ptr().cast_mut(),
                picture.v.as_ptr().cast_mut(),
                null_mut(),
            ],
            iPicWidth: width,
            iPicHeight: self.height as i32,
            uiTimeStamp: i64::try_from(picture.at.micros() / 1_000).unwrap_or(i64::MAX),
            bPsnrY: false,
            bPsnrU: false,
            bPsnrV: false,
        };
        let encode = self.table().EncodeFrame.expect("the library's table is complete");
        // SAFETY: the planes hold what size and strides say (`Picture` guarantees it) and outlive the call; `info` is
        // a live structure the call fills.
        check(unsafe { encode(self.handle, &raw const source, &raw mut *self.info) }, "encoding a picture")?;
        self.collect()
    }

    fn collect(&self) -> Result<Option<Encoded>, Error> {
        let keyframe = match self.info.eFrameType {
            sys::videoFrameTypeIDR => true,
            sys::videoFrameTypeI | sys::videoFrameTypeP | sys::videoFrameTypeIPMixed => false,
            sys::videoFrameTypeSkip => return Ok(None),
            other => return Err(Error::Library { what: "encoding a picture", code: other }),
        };
        let mut bytes = Vec::with_capacity(self.info.iFrameSizeInBytes.max(0) as usize);
        let layers = usize::try_from(self.info.iLayerNum).unwrap_or(0);
        for layer in self.info.sLayerInfo.iter().take(layers) {
            let units = usize::try_from(layer.iNalCount).unwrap_or(0);
            if units == 0 || layer.pNalLengthInByte.is_null() || layer.pBsBuf.is_null() {
                continue;
            }
            // SAFETY: the library points at `iNalCount` lengths and at a buffer of their sum, both valid until the
            // next call on this encoder.
            let part = unsafe {
                let lengths = std::slice::from_raw_parts(layer.pNalLengthInByte, units);
                let length = lengths.iter().map(|&length| length.max(0) as usize).sum();
                std::slice::from_raw_parts(layer.pBsBuf, length)
            };
            bytes.extend_from_slice(part);
        }
        Ok((!bytes.is_empty()).then_some(Encoded { keyframe, bytes }))
    }

    fn set<T>(&self, option: sys::ENCODER_OPTION, value: &mut T, what: &'static str) -> Result<(), Error> {
        let set = self.table().SetOption.expect("the library's table is complete");
        // SAFETY: each caller passes the type the option asks for, alive during the call.
        check(unsafe { set(self.handle, option, std::ptr::from_mut(value).cast()) }, what)
    }

    fn table(&self) -> &sys::ISVCEncoderVtbl {
        // SAFETY: a handle is a pointer to a pointer to the class's constant table.
        unsafe { &**self.handle }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: the handle came from the matching call and is not used again. Destroying also uninitializes.
        unsafe { sys::source::APILoader::WelsDestroySVCEncoder(self.handle) }
    }
}

/// Bits of a keyframe, in hundredths of the mean frame's. Four times keeps a keyframe on a 2 Mb/s line from standing
/// before the sound for longer than a play-out buffer covers.
const KEYFRAME_PERCENT: i32 = 400;

/// A decoder for one stream.
pub(super) struct Decoder {
    handle: *mut sys::ISVCDecoder,
}

// SAFETY: as for the encoder.
unsafe impl Send for Decoder {}

impl Decoder {
    pub(super) fn new() -> Result<Self, Error> {
        let mut handle: *mut sys::ISVCDecoder = null_mut();
        // SAFETY: the call writes a new handle, or leaves it null and reports failure.
        let code = unsafe { sys::source::APILoader::WelsCreateDecoder(&raw mut handle) };
        if code != 0 || handle.is_null() {
            return Err(Error::Library { what: "making a decoder", code: code as i32 });
        }
        let decoder = Self { handle };
        let mut quiet = sys::WELS_LOG_QUIET;
        decoder.set(sys::DECODER_OPTION_TRACE_LEVEL, &mut quiet, "silencing the decoder")?;
        let mut params = sys::SDecodingParam::default();
        params.sVideoProperty.eVideoBsType = sys::VIDEO_BITSTREAM_DEFAULT;
        // A damaged picture is an error, not a guess: what is shown was published.
        params.eEcActiveIdc = sys::ERROR_CON_DISABLE;
        let initialize = decoder.table().Initialize.expect("the library's table is complete");
        // SAFETY: `params` is complete and only read during the call.
        check(unsafe { initialize(decoder.handle, &raw const params) } as i32, "starting a decoder")?;
        Ok(decoder)
    }

    /// Decodes one access unit. `at` comes back with its picture, which may be a later call's when the stream holds
    /// pictures out of order.
    pub(super) fn decode(&mut self, unit: &[u8], at: MediaTime) -> Result<Option<Picture>, Error> {
        let length = i32::try_from(unit.len()).map_err(|_| Error::Damaged { code: sys::dsInvalidArgument })?;
        let mut planes = [null_mut::<u8>(); 3];
        let mut info = sys::SBufferInfo { uiInBsTimeStamp: at.micros(), ..Default::default() };
        let decode = self.table().DecodeFrameNoDelay.expect("the library's table is complete");
        // SAFETY: `unit` is readable for `length` bytes; planes and info are live and filled by the call.
        let state = unsafe { decode(self.handle, unit.as_ptr(), length, planes.as_mut_ptr().cast(), &raw mut info) };
        if state != sys::dsErrorFree {
            return Err(Error::Damaged { code: state });
        }
        copy_out(&planes, &info)
    }

    /// The next picture still held back for ordering, once the stream is over.
    pub(super) fn flush(&mut self) -> Result<Option<Picture>, Error> {
        let mut ended = 1_i32;
        self.set(sys::DECODER_OPTION_END_OF_STREAM, &mut ended, "ending a stream")?;
        let mut planes = [null_mut::<u8>(); 3];
        let mut info = sys::SBufferInfo::default();
        let flush = self.table().FlushFrame.expect("the library's table is complete");
        // SAFETY: planes and info are live and filled by the call.
        let state = unsafe { flush(self.handle, planes.as_mut_ptr().cast(), &raw mut info) };
        if state != sys::dsErrorFree {
            return Err(Error::Damaged { code: state });
        }
        copy_out(&planes, &info)
    }

    fn set<T>(&self, option: sys::DECODER_OPTION, value: &mut T, what: &'static str) -> Result<(), Error> {
        let set = self.table().SetOption.expect("the library's table is complete");
        // SAFETY: each caller passes the type the option asks for, alive during the call.
        check(unsafe { set(self.handle, option, std::ptr::from_mut(value).cast()) } as i32, what)
    }

    fn table(&self) -> &sys::ISVCDecoderVtbl {
        // SAFETY: a handle is a pointer to a pointer to the class's constant table.
        unsafe { &**self.handle }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        if let Some(uninitialize) = self.table().Uninitialize {
            // SAFETY: the handle is live; uninitializing one that never started does nothing.
            unsafe { uninitialize(self.handle) };
        }
        // SAFETY: the handle came from the matching call and is not used again.
        unsafe { sys::source::APILoader::WelsDestroyDecoder(self.handle) }
    }
}

/// Copies a ready picture out of the library's memory, without the padding of its lines.
fn copy_out(planes: &[*mut u8; 3], info: &sys::SBufferInfo) -> Result<Option<Picture>, Error> {
    if info.iBufferStatus != 1 || planes.iter().any(|plane| plane.is_null()) {
        return Ok(None);
    }
    // SAFETY: the union has one variant only, filled when a picture is ready.
    let memory = unsafe { info.UsrData.sSystemBuffer };
    let (width, height) = (memory.iWidth.max(0) as u32, memory.iHeight.max(0) as u32);
    if width > SIDE_MAX || height > SIDE_MAX || memory.iFormat != sys::videoFormatI420 {
        return Err(Error::Size { width, height });
    }
    // Odd sizes lose their last column or row, as our planes are even.
    let (width, height) = (width & !1, height & !1);
    let copy = |plane: *mut u8, stride: i32, width: u32, height: u32| {
        let (stride, width) = (stride.max(0) as usize, width as usize);
        let mut out = Vec::with_capacity(width * height as usize);
        for row in 0..height as usize {
            // SAFETY: each plane has `height` lines of `stride` bytes, of which `width` are picture.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(plane.add(row * stride), width) });
        }
        out
    };
    let [luma, chroma] = memory.iStride;
    if (luma.max(0) as u32) < width || (chroma.max(0) as u32) < width / 2 {
        return Err(Error::Size { width, height });
    }
    let planes = [
        copy(planes[0], luma, width, height),
        copy(planes[1], chroma, width / 2, height / 2),
        copy(planes[2], chroma, width / 2, height / 2),
    ];
    let at = MediaTime(info.uiOutYuvTimeStamp);
    Picture::from_planes(width, height, planes, at).map(Some).map_err(|_| Error::Size { width, height })
}

fn check(code: i32, what: &'static str) -> Result<(), Error> {
    if code == 0 { Ok(()) } else { Err(Error::Library { what, code }) }
}
