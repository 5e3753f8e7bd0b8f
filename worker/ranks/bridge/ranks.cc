// What c10d, libtorch's distributed layer, does for a trainer, behind a C interface as
// torch-sys has one: src/bridge.rs declares the same functions. A function that fails
// returns null and sets `error` to a text, which `ranks_free_text` frees.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace {

using Gloo = c10d::ProcessGroupGloo;

struct Store {
  c10::intrusive_ptr<c10d::TCPStore> store;
};

struct Group {
  c10::intrusive_ptr<Gloo> group;
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

void sum_in_place(const c10::intrusive_ptr<Gloo>& group, const at::Tensor& tensor) {
  std::vector<at::Tensor> tensors{tensor};
  group->allreduce(tensors)->wait();
}

/// Every process computes a part of one scalar, and what is summed here goes into all parts:
/// so its gradient is the sum of theirs.
struct SumOverRanks : torch::autograd::Function<SumOverRanks> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& own,
                            const c10::intrusive_ptr<Gloo>& group) {
    context->saved_data["group"] = c10::IValue::make_capsule(group);
    at::Tensor sum = own.detach().clone(at::MemoryFormat::Contiguous);
    sum_in_place(group, sum);
    return sum;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto group = c10::static_intrusive_pointer_cast<Gloo>(context->saved_data["group"].toCapsule());
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

Group* ranks_join(const Store* store, const char* address, uint32_t rank, uint32_t size, uint64_t timeout_ms,
                  char** error) {
  return caught(error, [&] {
    auto options = Gloo::Options::create(std::chrono::milliseconds(timeout_ms));
    options->devices.push_back(Gloo::createDeviceForHostname(address));
    return new Group{c10::make_intrusive<Gloo>(store->store, static_cast<int>(rank), static_cast<int>(size),
                                               options)};
  });
}

void ranks_leave(Group* group) { delete group; }

/// Replaces the values by their sums over all processes; its first argument where it worked.
const Group* ranks_sum(const Group* group, const at::Tensor* tensor, char** error) {
  return caught(error, [&]() -> const Group* {
    sum_in_place(group->group, *tensor);
    return group;
  });
}

/// A new tensor, of the caller.
at::Tensor* ranks_summed(const Group* group, const at::Tensor* tensor, char** error) {
  return caught(error, [&] { return new at::Tensor(SumOverRanks::apply(*tensor, group->group)); });
}

void ranks_free_text(char* text) { free(text); }

}  // extern "C"
