"""The chart without a cluster: what it renders, which values it refuses, what judges say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stageline_operator.api.constants import OPERATOR_POD_LABELS
from stageline_operator.cli.main import app
from support.checkov import checkov_reports
from support.golden import assert_golden
from support.kube.helm import CHART, Helm, HelmError
from support.kube.parts import obtain_clients

CASES = Path(__file__).parent / "chart"
CRD = CHART.parents[1] / "crds" / "inferencedeployments.stageline.dev.yaml"
READING = {"get", "list", "watch", "*"}


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(obtain_clients().helm, tmp_path_factory.mktemp("helm"))


def render(helm: Helm, *arguments: str) -> list[dict[str, Any]]:
    """The objects of a release named "stageline" in namespace "stageline-system"."""
    text = helm("template", "stageline", str(CHART), "--namespace=stageline-system", *arguments)
    return [each for each in yaml.safe_load_all(text) if each]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def test_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("case", ["default", "namespaced", "everything"])
def test_it_renders_what_is_expected(helm: Helm, case: str) -> None:
    text = helm(
        "template",
        "stageline",
        str(CHART),
        "--namespace=stageline-system",
        f"--values={CASES / case}.values.yaml",
        # They have tests of their own, and would drown the rest.
        "--set=crds.install=false,dashboards.enabled=false",
    )
    assert_golden(CASES / f"{case}.golden.yaml", text)


def test_the_definition_is_the_generated_one_and_is_kept_on_uninstall(helm: Helm) -> None:
    (rendered,) = of_kind(render(helm), "CustomResourceDefinition")
    assert rendered == yaml.safe_load(CRD.read_text())
    assert rendered["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_dashboards_are_config_maps_that_grafanas_sidecar_finds(helm: Helm) -> None:
    found = [each for each in of_kind(render(helm), "ConfigMap") if "dashboard" in each["metadata"]["name"]]
    assert {each["metadata"]["labels"]["grafana_dashboard"] for each in found} == {"1"}
    titles = [json.loads(text)["title"] for each in found for text in each["data"].values()]
    assert sorted(titles) == ["Stageline / Operator", "Stageline / Overview", "Stageline / Pipeline"]


def test_alerts_are_a_rule_object_where_there_is_one_else_a_file_and_lead_to_the_runbooks(helm: Helm) -> None:
    where = "https://example.com/runbooks"
    set_where = f"--set=alerts.runbooks={where}"
    (rule,) = of_kind(
        render(helm, set_where, "--api-versions=monitoring.coreos.com/v1/PrometheusRule"), "PrometheusRule"
    )
    (file,) = [
        each for each in of_kind(render(helm, set_where), "ConfigMap") if each["metadata"]["name"].endswith("-alerts")
    ]
    assert yaml.safe_load(file["data"]["stageline-alerts.yaml"]) == rule["spec"]
    urls = [each["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for each in group["rules"]]
    assert all(url.startswith(f"{where}#") for url in urls)


def test_no_definition_where_another_release_installs_it(helm: Helm) -> None:
    assert not of_kind(render(helm, "--set=crds.install=false"), "CustomResourceDefinition")


def test_no_rule_reads_secrets_nodes_or_logs_or_has_a_wildcard(helm: Helm) -> None:
    rules = [rule for each in of_kind(render(helm), "ClusterRole", "Role") for rule in each["rules"]]
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        forbidden = {"secrets", "nodes", "pods/log", "pods/exec"} & set(rule["resources"])
        assert not (forbidden and READING & set(rule["verbs"])), rule


def test_a_namespaced_release_has_the_same_rules_and_nothing_cluster_wide(helm: Helm) -> None:
    (cluster_wide,) = of_kind(render(helm), "ClusterRole")
    namespaced = render(helm, "--set=watchNamespaces={a,b},crds.install=false")
    roles = [each for each in of_kind(namespaced, "Role") if not each["metadata"]["name"].endswith("-lease")]
    assert [each["metadata"]["namespace"] for each in roles] == ["a", "b"]
    assert all(each["rules"] == cluster_wide["rules"] for each in roles)
    assert not of_kind(namespaced, "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")
    (deployment,) = of_kind(namespaced, "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [each for each in arguments if each.startswith("--namespace=")] == ["--namespace=a", "--namespace=b"]


def test_a_disruption_budget_only_with_more_than_one_pod(helm: Helm) -> None:
    assert of_kind(render(helm), "PodDisruptionBudget")
    assert not of_kind(render(helm, "--set=replicas=1"), "PodDisruptionBudget")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("replicas=many", "at '/replicas': got string, want integer"),
        ("replica=2", "additional properties 'replica' not allowed"),
        ("image.digest=abc", "at '/image/digest'"),
        ("image.tag=a/b", "at '/image/tag'"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
        ("image.registry=x", "additional properties 'registry' not allowed"),
        ("watchNamespaces={Team}", "at '/watchNamespaces/0'"),
        ("crds.keep=false", "additional properties 'keep' not allowed"),
        ("logLevel=verbose", "at '/logLevel'"),
        ("resources.limits=null", "at '/resources': missing property 'limits'"),
        ("serviceMonitor.interval=soon", "at '/serviceMonitor/interval'"),
        ("networkPolicy=true", "at '/networkPolicy': got boolean, want object"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: Helm, setting: str, complaint: str) -> None:
    with pytest.raises(HelmError, match="values don't meet the specifications of the schema") as refused:
        render(helm, f"--set={setting}")
    assert complaint in str(refused.value)


def test_every_value_is_described_by_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    # Helm itself passes `global`; nobody sets it.
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, value in values.items():
        described = schema["properties"][name].get("properties")
        if isinstance(value, dict) and described is not None:
            assert set(described) == set(value), name


def test_checkov_finds_nothing_and_is_told_what_a_person_may_choose(helm: Helm, tmp_path: Path) -> None:
    expected = {
        "": {"CKV_K8S_43", "CKV_K8S_15"},
        "--set=image.pullPolicy=Always": {"CKV_K8S_43"},
        f"--set=image.digest=sha256:{'0' * 64}": set(),
        f"--values={CASES / 'everything.values.yaml'}": {"CKV2_K8S_6"},
    }
    files = []
    for number, argument in enumerate(expected):
        files.append(tmp_path / f"{number}.yaml")
        arguments = [argument] if argument else []
        files[-1].write_text(
            helm("template", "stageline", str(CHART), f"--namespace=stageline-system-{number}", *arguments)
        )
    reports = checkov_reports(*files)
    assert [report.failed for report in reports] == [set()] * len(expected)
    assert [report.skipped for report in reports] == list(expected.values())


def test_the_operators_pods_have_the_labels_that_its_network_policies_let_in(helm: Helm) -> None:
    (deployment,) = of_kind(render(helm, f"--values={CASES / 'everything.values.yaml'}"), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= OPERATOR_POD_LABELS.items()


def test_the_operator_takes_the_arguments_that_the_chart_gives_it(helm: Helm) -> None:
    for case in ("default", "namespaced", "everything"):
        (deployment,) = of_kind(render(helm, f"--values={CASES / case}.values.yaml"), "Deployment")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        arguments = [each.replace("$(", "").replace(")", "") for each in container["args"]]
        _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert bound.arguments["port"] == container["ports"][0]["containerPort"]
