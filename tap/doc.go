// Package tap is a TAP device as batches of frames.
//
// A device is opened in one of two ways. With offloads: each frame is preceded
// by a virtio-net header of HeaderLen bytes, may be up to 64 KiB long at any MTU,
// and its checksums need not be filled in (Linux
// Documentation/networking/tuntap.rst, virtio 1.2 §5.1.6). Plain: each frame is at
// most MTU+14 bytes and complete. The first is five to twelve times as fast at MTU
// 1500; the second works everywhere.
//
// The kernel adds features over time: checksum and TCP segmentation offload
// are there since Linux 2.6.27, UDP segmentation offload since 6.2. What the
// kernel refuses is left out and named in Features.Why.
//
// A device belongs to the network namespace in which the driver's file, Path, was
// opened. Open does that in the caller's own, for a plain device through
// songgao/water. Attach takes a descriptor that was
// opened in another, a guest's, without going there. What somebody else has made a
// device of, or a socket of frames instead, is first looked at by Inherit. New wraps
// the descriptor. Buffers always belong to the caller; the device keeps none after a
// call.
package tap
