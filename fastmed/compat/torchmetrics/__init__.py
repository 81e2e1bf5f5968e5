from .confusion import *
from .rates import *
