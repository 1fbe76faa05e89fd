"""Models in Flax NNX, and the table of them that the command line reads."""

from hpfree_jax._errors import needs_extra

with needs_extra("hpfree_jax.models", "train"):
    from hpfree_jax._settings import Setting as Setting
    from hpfree_jax.models._dag_networks import DagCNN as DagCNN
    from hpfree_jax.models._dag_networks import DagMLP as DagMLP
    from hpfree_jax.models._densenet import DenseNetBC as DenseNetBC
    from hpfree_jax.models._efficientnet import EfficientNetB0 as EfficientNetB0
    from hpfree_jax.models._fcn import FCN as FCN
    from hpfree_jax.models._generate import generate as generate
    from hpfree_jax.models._gpt import GPT as GPT
    from hpfree_jax.models._lenet import LeNet5 as LeNet5
    from hpfree_jax.models._preact_resnet import PreActResNet as PreActResNet
    from hpfree_jax.models._registry import MODELS as MODELS
    from hpfree_jax.models._registry import Model as Model
    from hpfree_jax.models._registry import abstract_model as abstract_model
    from hpfree_jax.models._registry import build_model as build_model
    from hpfree_jax.models._registry import register_model as register_model
    from hpfree_jax.models._resnet import ResNet as ResNet
    from hpfree_jax.models._tiny_network import TinyNetwork as TinyNetwork
    from hpfree_jax.models._vgg import VGG as VGG
    from hpfree_jax.models._wide_resnet import WideResNet as WideResNet
