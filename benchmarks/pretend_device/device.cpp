// A device for tests: torch takes it for an accelerator, and CPU memory lies behind it.
//
// Every operation runs by the CPU's own kernel on tensors that share the device tensors' memory,
// strides included, so that results equal the CPU's bit for bit. On the way it is counted, and
// tensors of the CPU that meet tensors of the device are refused.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

namespace {

using at::IValue;
using at::Tensor;
using c10::Storage;
using c10::StorageImpl;

const c10::Device DEVICE(c10::DeviceType::PrivateUse1, 0);
const c10::DispatchKeySet DEVICE_KEYS(c10::DispatchKey::PrivateUse1);
const c10::DispatchKeySet CPU_KEYS(c10::DispatchKey::CPU);

bool on_device(const Tensor& tensor) {
  return tensor.device().type() == DEVICE.type();
}

// --- counts -------------------------------------------------------------------------------------

// Operations whose result, or its shape, the host must wait for, as it does with CUDA.
const std::unordered_set<std::string> READ_BY_THE_HOST = {
    "aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select",
    "aten::masked_select.out", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor", "aten::bincount"};

std::atomic<bool> reads_are_refused = false;
std::mutex counts_lock;  // autograd works on a thread of its own
c10::Dict<std::string, int64_t> counts;

void count(const std::string& name) {
  const std::lock_guard<std::mutex> guard(counts_lock);
  counts.insert_or_assign(name, counts.contains(name) ? counts.at(name) + 1 : 1);
}

void count_read(const std::string& name) {
  TORCH_CHECK(!reads_are_refused, name, " makes the host wait for ", DEVICE);
  count("read by the host: " + name);
}

void refuse_reads(bool refuse) {
  reads_are_refused = refuse;
}

c10::Dict<std::string, int64_t> read_counts() {
  const std::lock_guard<std::mutex> guard(counts_lock);
  return counts.copy();
}

void clear_counts() {
  const std::lock_guard<std::mutex> guard(counts_lock);
  counts.clear();
}

// --- memory -------------------------------------------------------------------------------------

void release_storage(void* storage) {
  delete static_cast<Storage*>(storage);
}

// Memory of `storage` as memory of another device; it lives as long as either.
Storage shared(const Storage& storage, c10::Device device, c10::Allocator* allocator) {
  void* data = const_cast<void*>(storage.data());
  return Storage(
      Storage::use_byte_size_t(), storage.nbytes(),
      c10::DataPtr(data, new Storage(storage), &release_storage, device), allocator,
      /*resizable=*/true);
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    auto* memory = new c10::DataPtr(c10::GetCPUAllocator()->allocate(size));
    return {memory->get(), memory, &release, DEVICE};
  }
  static void release(void* memory) {
    delete static_cast<c10::DataPtr*>(memory);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &release;
  }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
};

DeviceAllocator allocator;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &allocator)

Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &allocator, DEVICE_KEYS, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &allocator, DEVICE_KEYS, c10::dtype_or_default(dtype));
}

// --- random numbers -----------------------------------------------------------------------------

struct DeviceGenerator final : c10::GeneratorImpl {
  explicit DeviceGenerator(at::Generator generator)
      : c10::GeneratorImpl(DEVICE, DEVICE_KEYS), on_cpu(std::move(generator)) {}

  void set_current_seed(uint64_t seed) override { impl()->set_current_seed(seed); }
  void set_offset(uint64_t offset) override { impl()->set_offset(offset); }
  uint64_t get_offset() const override { return impl()->get_offset(); }
  uint64_t current_seed() const override { return impl()->current_seed(); }
  uint64_t seed() override { return impl()->seed(); }
  void set_state(const c10::TensorImpl& state) override { impl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return impl()->get_state(); }

  at::Generator on_cpu;

 private:
  c10::GeneratorImpl* impl() const { return on_cpu.unsafeGetGeneratorImpl(); }
  DeviceGenerator* clone_impl() const override { return new DeviceGenerator(on_cpu.clone()); }
};

at::Generator make_generator() {
  return at::make_generator<DeviceGenerator>(at::detail::createCPUGenerator());
}

// --- operations ---------------------------------------------------------------------------------

// The tensors of one call on the CPU, and the way back.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : name_(op.schema().operator_name()) {}

  Tensor to_cpu(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!on_device(tensor)) {
      // a number may come as a tensor of the CPU, as with CUDA
      TORCH_CHECK(
          tensor.dim() == 0, c10::toString(name_), ": a tensor of ", tensor.device(), ", ",
          tensor.sizes(), ", meets tensors of ", DEVICE);
      return tensor;
    }
    return like(tensor, cpu_storage(tensor.storage()), CPU_KEYS);
  }

  Storage cpu_storage(const Storage& own) {
    auto found = to_cpu_.find(own.unsafeGetStorageImpl());
    if (found == to_cpu_.end()) {
      Storage alias = shared(own, c10::Device(c10::kCPU), c10::GetCPUAllocator());
      to_device_.emplace(alias.unsafeGetStorageImpl(), own);
      found = to_cpu_.emplace(own.unsafeGetStorageImpl(), alias).first;
    }
    return found->second;
  }

  Tensor to_device(const Tensor& tensor) {
    if (!tensor.defined() || on_device(tensor)) return tensor;
    return like(tensor, device_storage(tensor.storage()), DEVICE_KEYS);
  }

  // After a call that may have resized `cpu`, or given it other memory.
  void take_over(const Tensor& device, const Tensor& cpu) {
    const Storage& own = device.storage();
    const Storage& now = cpu.storage();
    auto known = to_device_.find(now.unsafeGetStorageImpl());
    c10::TensorImpl* impl = device.unsafeGetTensorImpl();
    if (known == to_device_.end() || known->second.unsafeGetStorageImpl() != own.unsafeGetStorageImpl()) {
      impl->set_storage_keep_dtype(device_storage(now));
    } else if (now.data() != own.data() || now.nbytes() != own.nbytes()) {
      own.set_data_ptr_noswap(
          {const_cast<void*>(now.data()), new Storage(now), &release_storage, DEVICE});
      own.set_nbytes(now.nbytes());
    }
    if (device.sizes() != cpu.sizes() || device.strides() != cpu.strides() ||
        device.storage_offset() != cpu.storage_offset()) {
      impl->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    }
  }

 private:
  static Tensor like(const Tensor& tensor, const Storage& storage, c10::DispatchKeySet keys) {
    Tensor result = at::detail::make_tensor<c10::TensorImpl>(Storage(storage), keys, tensor.dtype());
    c10::TensorImpl* impl = result.unsafeGetTensorImpl();
    impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
    return result;
  }

  Storage device_storage(const Storage& cpu) {
    auto found = to_device_.find(cpu.unsafeGetStorageImpl());
    if (found == to_device_.end()) {
      found = to_device_.emplace(cpu.unsafeGetStorageImpl(), shared(cpu, DEVICE, &allocator)).first;
    }
    return found->second;
  }

  c10::OperatorName name_;
  std::unordered_map<StorageImpl*, Storage> to_cpu_, to_device_;
};

IValue to_cpu(Call& call, const IValue& value) {
  if (value.isTensor()) return call.to_cpu(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(call.to_cpu(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& tensor : value.toOptionalTensorVector()) {
      list.push_back(tensor ? std::make_optional(call.to_cpu(*tensor)) : std::nullopt);
    }
    return list;
  }
  if (value.isGenerator()) {
    const at::Generator generator = value.toGenerator();
    TORCH_CHECK(generator.device().type() == DEVICE.type(), "a generator of ", generator.device());
    return static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->on_cpu;
  }
  if (value.isStorage() && value.toStorage().device().type() == DEVICE.type()) {
    return call.cpu_storage(value.toStorage());
  }
  if (value.isDevice() && value.toDevice().type() == DEVICE.type()) return c10::Device(c10::kCPU);
  return value;
}

bool is_view(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns()) {
    if (result.alias_info() != nullptr && !result.alias_info()->isWrite()) return true;
  }
  return false;
}

const std::unordered_set<std::string> WITHOUT_WORK = {"aten::resize_", "aten::set_"};

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const size_t argument_count = schema.arguments().size();
  const size_t begin = stack->size() - argument_count;
  const std::vector<IValue> given(stack->begin() + begin, stack->end());
  Call call(op);
  for (size_t i = 0; i < argument_count; ++i) (*stack)[begin + i] = to_cpu(call, given[i]);
  const std::vector<IValue> on_cpu(stack->begin() + begin, stack->end());

  const std::string name = c10::toString(op.operator_name());
  if (READ_BY_THE_HOST.count(name)) count_read(name);
  if (!is_view(schema) && !WITHOUT_WORK.count(schema.name())) count("operation: " + name);
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    op.callBoxed(stack);
  }

  for (size_t i = 0; i < argument_count; ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    if (alias == nullptr || !alias->isWrite()) continue;
    if (given[i].isTensor() && given[i].toTensor().defined() && on_device(given[i].toTensor())) {
      call.take_over(given[i].toTensor(), on_cpu[i].toTensor());
    }
  }
  const size_t result_count = schema.returns().size();
  const size_t results = stack->size() - result_count;
  for (size_t i = 0; i < result_count; ++i) {
    IValue& result = (*stack)[results + i];
    const auto* alias = schema.returns()[i].alias_info();
    bool is_argument = false;
    for (size_t j = 0; alias != nullptr && alias->isWrite() && j < argument_count; ++j) {
      const auto* own = schema.arguments()[j].alias_info();
      if (own != nullptr && *own == *alias) {
        result = given[j];
        is_argument = true;
      }
    }
    if (is_argument) continue;
    if (result.isTensor()) {
      result = call.to_device(result.toTensor());
    } else if (result.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : result.toTensorVector()) list.push_back(call.to_device(tensor));
      result = list;
    }
  }
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool /*non_blocking*/) {
  if (on_device(from) && !on_device(to)) {
    count_read("copy to the host");
  } else {
    count(on_device(from) ? "operation: aten::copy_" : "copy from the host");
  }
  const auto as_cpu = [](const Tensor& tensor) {
    if (!on_device(tensor)) return tensor;
    Tensor result = at::detail::make_tensor<c10::TensorImpl>(
        shared(tensor.storage(), c10::Device(c10::kCPU), c10::GetCPUAllocator()), CPU_KEYS,
        tensor.dtype());
    result.unsafeGetTensorImpl()->set_sizes_and_strides(
        tensor.sizes(), tensor.strides(), tensor.storage_offset());
    return result;
  };
  at::AutoDispatchBelowADInplaceOrView guard;
  as_cpu(to).copy_(as_cpu(from));
  return to;
}

// --- what torch asks of an accelerator ----------------------------------------------------------

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, DEVICE);
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, DEVICE);
  }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator generator = make_generator();
    return generator;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return make_generator(); }
};

[[maybe_unused]] const bool registered = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

torch::CppFunction boxed() {
  return torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>();
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(boxed());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  // For these torch has a way of its own on devices that it doesn't know: by an operation that the
  // device must bring, or one tensor after the other.
  m.impl("convolution", boxed());
  m.impl("convolution_backward", boxed());
  for (const c10::OperatorName& op : c10::Dispatcher::singleton().getAllOpNames()) {
    if (op.name.rfind("aten::_foreach_", 0) == 0) {
      m.impl(op.overload_name.empty() ? op.name.c_str() : (op.name + "." + op.overload_name).c_str(), boxed());
    }
  }
}

TORCH_LIBRARY(pretend_device, m) {
  m.def("counts", &read_counts);
  m.def("clear_counts", &clear_counts);
  m.def("refuse_reads", &refuse_reads);
}
