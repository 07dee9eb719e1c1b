// Package tap is a TAP device as batches of frames.
//
// A device is opened in one of two ways. With offloads, by ioctl: each frame
// is preceded by a virtio-net header of HeaderLen bytes, may be up to 64 KiB
// long at any MTU, and its checksums need not be filled in (Linux
// Documentation/networking/tuntap.rst, virtio 1.2 §5.1.6). Plain, through
// songgao/water: each frame is at most MTU+14 bytes and complete. The first is
// five to twelve times as fast at MTU 1500; the second works everywhere.
//
// The kernel adds features over time: checksum and TCP segmentation offload
// are there since Linux 2.6.27, UDP segmentation offload since 6.2. What the
// kernel refuses is left out and named in Features.Why.
//
// Whoever calls Open becomes the device's namespace: it is opened by the stage
// inside the guest and handed out as a descriptor, which New wraps. What somebody
// else opened, which may be a socket of frames instead, is first looked at by
// Inherit. Buffers
// always belong to the caller; the device keeps none after a call.
package tap
