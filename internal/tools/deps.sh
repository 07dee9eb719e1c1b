#!/bin/sh
# Checks that the programs the tests use are installed. As root it installs what
# is missing from Debian's packages; otherwise it names it and fails.
#
#	deps.sh         for make test
#	deps.sh bench   for make bench: the peers to compare with, not required
set -eu

# program:package
tests="gcc:gcc curl:curl dig:bind9-dnsutils ping:iputils-ping traceroute:traceroute
       nc:netcat-openbsd git:git iperf3:iperf3 udhcpc:udhcpc dhclient:isc-dhcp-client
       rdisc6:ndisc6 newuidmap:uidmap ip:iproute2
       slirp4netns:slirp4netns pasta:passt
       podman:podman crun:crun /usr/lib/podman/netavark:netavark iptables:iptables nft:nftables
       buildah:buildah rootlesskit:rootlesskit bwrap:bubblewrap
       apparmor_parser:apparmor"
peers="slirp4netns:slirp4netns pasta:passt rootlesskit:rootlesskit newuidmap:uidmap"

# Some of them live where an ordinary user's PATH does not lead.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

packages=
if [ "${1:-}" = bench ]; then wanted=$peers; else wanted=$tests; fi
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null || packages="$packages ${pair#*:}"
done

# A compiler without the C library's headers is no compiler.
if [ "${1:-}" != bench ] && ! [ -e /usr/include/stdlib.h ]; then
    packages="$packages libc6-dev"
fi

[ -n "$packages" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "missing Debian packages:$packages" >&2
    echo "as root: apt-get install --no-install-recommends$packages" >&2
    [ "${1:-}" = bench ] && exit 0
    exit 1
fi

echo "== installing$packages"
export DEBIAN_FRONTEND=noninteractive
# A mirror may be busy, and so may be apt with what somebody else has begun.
apt="apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120"
install="$apt install --no-install-recommends $packages"
for try in 1 2 3; do
    $install && exit 0
    echo "== the package lists may be old, or not be there at all ($try)"
    $apt update || true
done
$install
