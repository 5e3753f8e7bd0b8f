// See ../README.md: names alone, what they stand for is inside libtorch.
#pragma once

namespace gloo::transport {
class Device;
class UnboundBuffer;
}  // namespace gloo::transport
