"""What real clients find at HF_ENDPOINT, as one line of JSON: huggingface_hub, stock timm, or our own loader."""

import hashlib
import json
import os
import sys


def outcome(call):
    """The result of a call, or the names of the classes of what it raised."""
    try:
        return call()
    except Exception as error:
        return {"raised": [kind.__name__ for kind in type(error).__mro__], "says": str(error)}


def wait():
    """Let the test act: say so, and go on with its answer."""
    sys.stdout.write("now\n")
    sys.stdout.flush()
    sys.stdin.readline()


def sha256(path):
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hub():
    """Every call of huggingface_hub's that a reader of models makes."""
    import huggingface_hub
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download

    api, tiny = HfApi(), "lab/tiny"
    found = {"version": huggingface_hub.__version__, "list": [m.id for m in api.list_models()]}
    found["author"] = [m.id for m in api.list_models(author="lab", filter="insloc", limit=1)]
    found["search"] = [m.id for m in api.list_models(search="TIN", pipeline_tag="image-feature-extraction", full=True)]
    found["nothing"] = [m.id for m in api.list_models(search="nothing")]
    info = api.model_info(tiny, files_metadata=True)
    found["info"] = [info.id, info.sha, info.library_name, info.pipeline_tag, info.card_data.license, sorted(info.tags)]
    found["metric"] = info.card_data.eval_results[0].metric_value
    found["siblings"] = [[s.rfilename, s.size, s.lfs.sha256 if s.lfs else s.blob_id] for s in info.siblings]
    found["by_sha"] = api.model_info(tiny, revision=info.sha).sha
    found["refs"] = [[b.name, b.target_commit] for b in api.list_repo_refs(tiny).branches]
    found["exists"] = [api.repo_exists(tiny), api.repo_exists("lab/none"), api.revision_exists(tiny, "none")]
    found["file_exists"] = [api.file_exists(tiny, "config.json"), api.file_exists(tiny, "none.json")]
    found["paths"] = [p.path for p in api.get_paths_info(tiny, ["parts", "config.json", "none"])]
    found["tree"] = [p.path for p in api.list_repo_tree(tiny, recursive=True)]
    found["top"] = [p.path for p in api.list_repo_tree(tiny)]
    path = hf_hub_download(tiny, "model.safetensors")
    found["file"] = [sha256(path), os.path.basename(os.path.dirname(path))]
    found["odd"] = sha256(hf_hub_download(tiny, "parts/fpn head#1.json", revision=info.sha))
    folder = snapshot_download(tiny)
    found["snapshot"] = sorted(os.path.relpath(os.path.join(d, f), folder) for d, _, fs in os.walk(folder) for f in fs)
    found["snapshot_by_sha"] = snapshot_download(tiny, revision=info.sha) == folder
    found["lengths"] = [get_hf_file_metadata(hf_hub_url(tiny, name)).size for name in found["snapshot"]]
    found["metadata"] = api.get_safetensors_metadata(tiny).parameter_count["F32"] > 0  # a Range request
    found["no_repo"] = outcome(lambda: hf_hub_download("lab/none", "config.json"))
    found["no_file"] = outcome(lambda: hf_hub_download(tiny, "none.json"))
    found["no_revision"] = outcome(lambda: hf_hub_download(tiny, "config.json", revision="none"))
    found["no_snapshot"] = outcome(lambda: snapshot_download("lab/none"))
    found["no_snapshot_revision"] = outcome(lambda: snapshot_download(tiny, revision="0" * 40))
    found["no_info"] = outcome(lambda: api.model_info("lab/none"))
    found["upload"] = outcome(lambda: api.create_repo("lab/new"))
    found["whoami"] = outcome(lambda: api.whoami(token="hf_x"))
    wait()
    found["later_file"] = hf_hub_download(tiny, "model.safetensors") == path
    found["later_snapshot"] = snapshot_download(tiny) == folder
    return found


def large():
    """A file that is longer than the client's pieces."""
    from huggingface_hub import hf_hub_download

    return {"sha256": sha256(hf_hub_download("lab/large", "model.safetensors"))}


def token():
    """What is told to a client without the mirror's token."""
    from huggingface_hub import HfApi, hf_hub_download

    return {
        "file": outcome(lambda: sha256(hf_hub_download("lab/tiny", "config.json"))),
        "info": outcome(lambda: HfApi().model_info("lab/tiny").id),
        "list": outcome(lambda: [m.id for m in HfApi().list_models()]),
    }


def stock():
    """The tensors that stock timm loads, without our package; again when the mirror is gone."""
    sys.modules["insloc_hub"] = None
    import timm
    from huggingface_hub import HfApi

    def digests(revision=""):
        model = timm.create_model(f"hf-hub:lab/exported{revision}", pretrained=True)
        return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in model.state_dict().items()}

    found = {"first": digests(), "by_commit": digests(f"@{HfApi().model_info('lab/exported').sha}")}
    wait()
    return found | {"later": digests()}


def ours():
    """Our loader: a good model by branch and by commit, an altered one."""
    from huggingface_hub import HfApi

    from insloc_hub import create_model

    commit = HfApi().model_info("lab/tiny").sha
    return {
        "good": [create_model(f"hf-hub:lab/tiny{at}").num_features for at in ("", "@main", f"@{commit}")],
        "altered": outcome(lambda: create_model("hf-hub:lab/altered")),
    }


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps({"hub": hub, "large": large, "token": token, "stock": stock, "ours": ours}[sys.argv[1]]()) + "\n"
    )
