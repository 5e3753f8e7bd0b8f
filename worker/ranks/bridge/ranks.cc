// What c10d, libtorch's distributed layer, does for a trainer, behind a C interface as
// torch-sys has one: src/bridge.rs declares the same functions. A function that fails
// returns null and sets `error` to a text, which `ranks_free_text` frees.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace {

/// c10d notes every sum in a table of the process, of which nobody here reads. Several groups of one
/// process write it at once without a lock, and one of them may then search it for ever. Set before
/// main, where nobody reads the environment yet; c10d does at the first group.
[[maybe_unused]] const int unrecorded = setenv("TORCH_FR_BUFFER_SIZE", "0", 0);

using Gloo = c10d::ProcessGroupGloo;
using Backend = c10::intrusive_ptr<c10d::Backend>;

struct Store {
  c10::intrusive_ptr<c10d::TCPStore> store;
};

struct Group {
  /// For tensors in host memory, and for all that is said beside the training.
  c10::intrusive_ptr<Gloo> host;
  /// For tensors of GPUs, where all processes have one and this libtorch has NCCL.
  Backend gpu;

  Backend of(const at::Tensor& tensor) const {
    if (!tensor.is_cuda()) return host;
    TORCH_CHECK(gpu, "a tensor of a GPU is summed through host memory here");
    return gpu;
  }
};

/// What `make` returns, or null with the text of what it threw.
template <typename Make>
auto caught(char** error, Make make) -> decltype(make()) {
  try {
    return make();
  } catch (const c10::Error& thrown) {
    *error = strdup(thrown.what_without_backtrace());
  } catch (const std::exception& thrown) {
    *error = strdup(thrown.what());
  } catch (...) {
    *error = strdup("an unknown exception");
  }
  return nullptr;
}

void sum_in_place(const Backend& group, const at::Tensor& tensor) {
  std::vector<at::Tensor> tensors{tensor};
  group->allreduce(tensors)->wait();
}

/// NCCL between the GPUs of all processes; null where one has none, or another libtorch. They
/// agree on it, since a message that one alone waits for would never come.
Backend between_gpus(const Store& store, const c10::intrusive_ptr<Gloo>& host, int rank, int size, int device) {
  if (size < 2) return {};
#ifdef USE_C10D_NCCL
  const bool can = device >= 0;
#else
  const bool can = false;
#endif
  at::Tensor count = at::full({1}, can ? 1.0 : 0.0, at::kFloat);
  sum_in_place(host, count);
  if (count.item<float>() < static_cast<float>(size)) return {};
#ifdef USE_C10D_NCCL
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(device));
  auto options = c10d::ProcessGroupNCCL::Options::create();
  // Longer than a daemon waits for a step (--step-limit, 10 minutes): it says which machine hangs, where
  // NCCL would end the ranks of all. Who waits for another one's validation or checkpoint waits in a
  // sum in host memory.
  options->timeout = std::chrono::minutes(15);
  auto own = c10::make_intrusive<c10d::PrefixStore>("nccl", store.store);
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(own, rank, size, options);
#else
  return {};
#endif
}

/// Every process computes a part of one scalar, and what is summed here goes into all parts:
/// so its gradient is the sum of theirs.
struct SumOverRanks : torch::autograd::Function<SumOverRanks> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& own,
                            const Backend& group) {
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    at::Tensor sum = own.detach().clone(at::MemoryFormat::Contiguous);
    sum_in_place(group, sum);
    return sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    Backend group =
        c10::static_intrusive_pointer_cast<c10d::Backend>(context->saved_data["group"].toCapsule());
    at::Tensor sum = gradients[0].clone(at::MemoryFormat::Contiguous);
    sum_in_place(group, sum);
    return {sum, at::Tensor()};
  }
};

}  // namespace

extern "C" {

Store* ranks_open_store(const char* host, uint16_t port, bool serves, uint64_t timeout_ms, char** error) {
  return caught(error, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves;
    // They meet when the group is made.
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    return new Store{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

uint16_t ranks_port(const Store* store) { return store->store->getPort(); }

void ranks_close_store(Store* store) { delete store; }

/// `device`: of the GPU that this process computes on, negative for none.
Group* ranks_join(const Store* store, const char* address, uint32_t rank, uint32_t size, uint64_t timeout_ms,
                  int32_t device, char** error) {
  return caught(error, [&] {
    auto options = Gloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(Gloo::createDeviceForHostname(address));
    const int own = static_cast<int>(rank), all = static_cast<int>(size);
    auto host = c10::make_intrusive<Gloo>(store->store, own, all, options);
    return new Group{host, between_gpus(*store, host, own, all, device)};
  });
}

bool ranks_sum_on_gpus(const Group* group) { return static_cast<bool>(group->gpu); }

void ranks_leave(Group* group) { delete group; }

/// Replaces the values by their sums over all processes; its first argument where it worked.
const Group* ranks_sum(const Group* group, const at::Tensor* tensor, char** error) {
  return caught(error, [&]() -> const Group* {
    sum_in_place(group->of(*tensor), *tensor);
    return group;
  });
}

/// A new tensor, of the caller.
at::Tensor* ranks_summed(const Group* group, const at::Tensor* tensor, char** error) {
  return caught(error, [&] { return new at::Tensor(SumOverRanks::apply(*tensor, group->of(*tensor))); });
}

void ranks_free_text(char* text) { free(text); }

}  // extern "C"
