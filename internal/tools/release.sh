#!/bin/sh
# The checklist of a release as far as a program can do it:
#
#	git tag -s vX.Y.Z && make release
#
# It changes nothing outside out/release. What is left to people: fold
# docs/changes/next into CHANGELOG.md before the tag, push, publish the files.
set -eu
version=$1
arches="amd64 arm64 riscv64"

fail() {
    echo "release: $1" >&2
    exit 1
}

case $version in
v[0-9]*.[0-9]*.[0-9]*-g* | *-dirty | devel) fail "$version is not a clean tag" ;;
v[0-9]*.[0-9]*.[0-9]*) ;;
*) fail "$version: no tag vX.Y.Z on this commit" ;;
esac
[ -z "$(git status --porcelain)" ] || fail "files that are not committed: git status"
[ -z "$(ls docs/changes/next/*.md 2>/dev/null)" ] || fail "docs/changes/next still has files: fold them into CHANGELOG.md"
grep -q "^## $version" CHANGELOG.md || fail "CHANGELOG.md has no section $version"

make test

rm -rf out/release
mkdir -p out/release
for arch in $arches; do
    echo "== $arch"
    GOARCH=$arch make build VERSION="$version"
    mv bin/taproot "out/release/taproot-$version-linux-$arch"
done
cp docs/man/taproot.1 LICENSE out/release
(cd out/release && sha256sum -- * >SHA256SUMS)
ls -l out/release
