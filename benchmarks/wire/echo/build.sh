#!/bin/sh
# Build the C++ echo server: build.sh FOLDER puts `echo` there.
# It needs g++, pkg-config and Debian's libgrpc++-dev, protobuf-compiler and protobuf-compiler-grpc.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

protoc --proto_path="$here" --cpp_out=. --grpc_out=. \
    --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" echo.proto
# Two sets of words: pkg-config gives flags, each of which is to be an argument of its own.
# shellcheck disable=SC2046
g++ -O2 -std=c++17 -I. $(pkg-config --cflags grpc++ protobuf) \
    -o echo.unfinished "$here/echo.cc" echo.pb.cc echo.grpc.pb.cc \
    $(pkg-config --libs grpc++ protobuf)
mv echo.unfinished echo
