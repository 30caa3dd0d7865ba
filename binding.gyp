{
  "targets": [
    {
      "target_name": "frameio",
      "sources": ["<!@(ls addon/*.cc)"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS", "_FORTIFY_SOURCE=2"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-exceptions"],
      "cflags!": ["-Wno-unused-parameter"],
      "cflags_cc": [
        "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-exceptions",
        "-fno-rtti", "-fvisibility=hidden", "-fstack-protector-strong", "-fstack-clash-protection",
        "-D_GNU_SOURCE", "-D_GLIBCXX_ASSERTIONS"
      ],
      "ldflags": ["-Wl,-z,relro,-z,now,-z,noexecstack"]
    }
  ]
}
