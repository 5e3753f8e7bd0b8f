// See README.md: libtorch's wheel has Gloo's code, not its headers.
#pragma once
