"""Observations: one row per region group of each current result, in Darwin Core terms.

The columns are data; pure PySpark makes them from the current rows of the raw tables (`ingest.snapshot`).

Terms: https://dwc.tdwg.org/terms/. Where a choice was open, Camtrap DP's own transformation to Darwin Core was followed
(https://inbo.github.io/camtrapdp/reference/write_dwc.html): the event is the group of media that were analysed
together, and the deployment its parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from biocloud_assets.schema import DELIVERY_COLUMN, RESCUED_COLUMN, Field, ListOf, Scalar, Struct, arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

_DWC = "http://rs.tdwg.org/dwc/terms/"


@dataclass(frozen=True)
class Term:
    """A column of the observations.

    Attributes:
        name: the term's name.
        type: as in the contract of the raw layer.
        description: what it holds here.
        sources: the raw columns that it is made of, `table.column`.
        iri: the term in its vocabulary; None for a column of Biocloud for which there is no term.
    """

    name: str
    type: Scalar | ListOf
    description: str
    sources: tuple[str, ...] = ()
    iri: str | None = None


def _dwc(name: str, type_: Scalar, description: str, *sources: str) -> Term:
    return Term(name, type_, description, sources, _DWC + name)


_RESULT, _GROUP, _REGION, _MEDIA, _TAXON = (
    "analysis_group_result",
    "analysis_group_result_region_group",
    "analysis_group_result_region",
    "analysis_group_result_media",
    "analysis_group_result_prediction",
)
_RANKED = (f"{_TAXON}.probability", f"{_TAXON}.prediction_index", f"{_TAXON}.taxon_index")
_RUNNER_UP = Struct(
    (
        Field("scientificName", "string", "Scientific name of the taxon"),
        Field("taxonID", "string", "Identifier of that name"),
        Field("probability", "double", "Probability, 0 to 1"),
    )
)

TERMS: tuple[Term, ...] = (
    _dwc(
        "occurrenceID",
        "string",
        "`<result>/<region group>`, `%` and `/` in either written as `%25` and `%2F`; `<result>//<index from 0>` for a "
        "region group without an identifier, or with one that its result has twice",
        f"{_RESULT}.id",
        f"{_GROUP}.region_group_id",
        f"{_GROUP}.region_group_index",
    ),
    _dwc("basisOfRecord", "string", "`MachineObservation`: recorded by a sensor, independent of who identified it"),
    _dwc("occurrenceStatus", "string", "`present` where a taxon was predicted, else null", f"{_TAXON}.scientific_name"),
    _dwc("organismID", "string", "The individual that the regions show", f"{_GROUP}.individual_id"),
    _dwc("datasetID", "string", "The project of the deployment", "sensor_deployment.project"),
    _dwc("datasetName", "string", "Name of that project", "sensor_deployment.project"),
    _dwc("eventID", "string", "The group of media that were analysed together", f"{_RESULT}.analysis_group_id"),
    _dwc(
        "parentEventID",
        "string",
        "The deployment: the result's, or if it has none, that of its media if they have the same",
        f"{_RESULT}.sensor_deployment_id",
        "sensor_media_item.sensor_deployment_id",
    ),
    _dwc(
        "eventDate",
        "string",
        "When the media of the regions were recorded (of the whole result if no region names one): ISO 8601, UTC, "
        "to the second; `<first>/<last>` if they differ",
        "sensor_media_item.captured_at",
        f"{_REGION}.media_id",
        f"{_MEDIA}.sensor_media_item_id",
    ),
    _dwc("samplingProtocol", "string", "Kind of sensor: camera, audio_recorder, …", "sensor.type"),
    _dwc(
        "samplingEffort",
        "string",
        "Start and end of the deployment, ISO 8601, UTC; null if one is unknown",
        "sensor_deployment.start_at",
        "sensor_deployment.end_at",
    ),
    _dwc("habitat", "string", "The habitat around the deployment", "sensor_deployment.habitat"),
    _dwc("locality", "string", "Name of the deployment", "sensor_deployment.name"),
    _dwc("decimalLatitude", "double", "Latitude, decimal degrees", "sensor_deployment.location"),
    _dwc("decimalLongitude", "double", "Longitude, decimal degrees", "sensor_deployment.location"),
    _dwc("geodeticDatum", "string", "`EPSG:4326` (WGS 84) where there is a position", "sensor_deployment.location"),
    _dwc("coordinateUncertaintyInMeters", "double", "Radius of uncertainty, metres", "sensor_deployment.location"),
    _dwc("minimumElevationInMeters", "double", "Elevation above sea level, metres", "sensor_deployment.location"),
    _dwc("maximumElevationInMeters", "double", "The same", "sensor_deployment.location"),
    _dwc(
        "scientificName",
        "string",
        "The best taxon: of all that were predicted for the region group, the one of the highest probability; without "
        "probabilities, and among equals, the first; null if none was predicted",
        f"{_TAXON}.scientific_name",
        *_RANKED,
    ),
    _dwc("taxonID", "string", "Identifier of that name", f"{_TAXON}.scientific_name_id", *_RANKED),
    _dwc("nameAccordingTo", "string", "The algorithm's taxonomy: namespace and version", "algorithm.taxonomy"),
    _dwc("identifiedBy", "string", "The algorithm: name and version", "algorithm.name", "algorithm.version"),
    _dwc("identifiedByID", "string", "Identifier of the algorithm", f"{_RESULT}.algorithm_id"),
    _dwc("dateIdentified", "string", "When the result was generated, ISO 8601, UTC", f"{_RESULT}.generated_at"),
    _dwc(
        "identificationRemarks",
        "string",
        "What else is known of the identification: probability, kind of prediction, tag of the algorithm, tag and "
        "version of the service, its parameters",
        f"{_TAXON}.probability",
        f"{_TAXON}.taxa_type",
        "algorithm.tag",
        f"{_RESULT}.generated_tag",
        f"{_RESULT}.generated_version",
        f"{_RESULT}.generated_parameters",
    ),
    _dwc(
        "associatedMedia",
        "string",
        "Addresses of the media of the regions (as for `eventDate`), sorted, separated by a vertical bar between "
        "spaces",
        "sensor_media_item.media",
        f"{_REGION}.media_id",
        f"{_MEDIA}.sensor_media_item_id",
    ),
    Term("probability", "double", "Probability of the best taxon, 0 to 1", _RANKED),
    Term(
        "runnersUp",
        ListOf(_RUNNER_UP),
        "The other taxa that were predicted for the region group, in the order in which the best one is chosen; empty "
        "if there are none, null if there is no best one either",
        (f"{_TAXON}.scientific_name", f"{_TAXON}.scientific_name_id", *_RANKED),
    ),
    Term("resultID", "string", "The result, as delivered", (f"{_RESULT}.id",)),
    Term("regionGroupID", "string", "The region group, as delivered", (f"{_GROUP}.region_group_id",)),
    Term("sensorID", "string", "The sensor that was deployed", ("sensor_deployment.sensor_id",)),
    Term("delivery", "string", "The delivery that the result came in", (f"{_RESULT}.{DELIVERY_COLUMN}",)),
)
"""The columns, in order."""

SOURCES: tuple[str, ...] = tuple(dict.fromkeys(source.partition(".")[0] for term in TERMS for source in term.sources))
"""The raw tables that the observations are made of."""

_SECONDS = "yyyy-MM-dd'T'HH:mm:ss'Z'"


def arrow_schema() -> pa.Schema:
    """The schema of the Parquet files: the columns of `TERMS`, in order, all nullable."""
    import pyarrow as pa

    return pa.schema([(term.name, arrow_type(term.type)) for term in TERMS])


def observations(current: Mapping[str, DataFrame]) -> DataFrame:
    """The observations, without an order: one row for each region group of each current result.

    Args:
        current: for each name in `SOURCES` the current rows of that table (`ingest.snapshot.current_rows`), with its
            columns in the contract. An `id` is there once.

    Returns:
        the columns of `TERMS`; `occurrenceID` is never null and never twice. Times are ISO 8601 texts in UTC.
    """
    results = current[_RESULT].withColumnRenamed("id", "result_id")
    algorithms = _named(current["algorithm"], "algorithm")
    deployments = _named(current["sensor_deployment"], "deployment")
    sensors = _named(current["sensor"], "sensor")
    groups = current[_GROUP].drop(DELIVERY_COLUMN, RESCUED_COLUMN)
    joined = (
        groups.join(results, "result_id")
        .join(_media(current), ["result_id", "region_group_index"], "left")
        .join(_taxa(current[_TAXON]), ["result_id", "region_group_id"], "left")
        .withColumn("deployment_id", F.coalesce("sensor_deployment_id", "_deployment_of_media"))
        .join(algorithms, "algorithm_id", "left")
        .join(deployments, "deployment_id", "left")
        .join(sensors, F.col("deployment.sensor_id") == F.col("sensor_id"), "left")
    )
    made = _columns()
    return joined.select(*(made[term.name].alias(term.name) for term in TERMS))


def _named(rows: DataFrame, name: str) -> DataFrame:
    """A table as one structure beside its key, so that no column is mistaken for another table's."""
    return rows.select(F.col("id").alias(f"{name}_id"), F.struct(*rows.columns).alias(name))


def _media(current: Mapping[str, DataFrame]) -> DataFrame:
    """For each region group: when its media were recorded, where they lie, and their deployment if it is one."""
    group = ["result_id", "region_group_index"]
    media = current[_MEDIA].select("result_id", "media_id", "sensor_media_item_id")
    of_regions = current[_REGION].select(*group, "media_id").join(media, ["result_id", "media_id"])
    without = current[_GROUP].select(*group).join(of_regions, group, "left_anti")
    of_results = without.join(media, "result_id")
    items = current["sensor_media_item"].select(
        F.col("id").alias("sensor_media_item_id"),
        "captured_at",
        "sensor_deployment_id",
        F.col("media.uri").alias("uri"),
    )
    columns = [*group, "sensor_media_item_id"]
    first, last = F.min("sensor_deployment_id"), F.max("sensor_deployment_id")
    return (
        of_regions.select(*columns)
        .unionByName(of_results.select(*columns))
        .join(items, "sensor_media_item_id")
        .groupBy(*group)
        .agg(
            F.min("captured_at").alias("_first"),
            F.max("captured_at").alias("_last"),
            F.array_sort(F.collect_set("uri")).alias("_uris"),
            F.when(first == last, first).alias("_deployment_of_media"),
        )
    )


def _taxa(predictions: DataFrame) -> DataFrame:
    """For each region group with a predicted taxon: its taxa, the best one first."""
    number = F.nanvl("probability", F.lit(None).cast("double"))
    taxon = F.struct(
        # What the order is, first: known probabilities from the highest down, then the unknown ones.
        number.isNull().alias("unknown"),
        F.coalesce(-number, F.lit(0.0)).alias("negative"),
        F.col("prediction_index"),
        F.col("taxon_index"),
        F.col("scientific_name").alias("scientificName"),
        F.col("scientific_name_id").alias("taxonID"),
        number.alias("probability"),
        F.col("taxa_type"),
    )
    return (
        predictions.where(F.col("scientific_name").isNotNull() | F.col("scientific_name_id").isNotNull())
        .groupBy("result_id", "region_group_id")
        .agg(F.array_sort(F.collect_list(taxon)).alias("_taxa"))
    )


def _columns() -> dict[str, Column]:
    """Each column, of the columns of the joined tables."""
    best = F.get("_taxa", F.lit(0))
    location = F.col("deployment.location")
    has_position = location["latitude"].isNotNull() & location["longitude"].isNotNull()
    times = F.when(F.col("_first").isNotNull(), _interval(F.col("_first"), F.col("_last")))
    start, end = F.col("deployment.start_at"), F.col("deployment.end_at")
    taxonomy = F.col("algorithm.taxonomy")
    others = F.transform(
        F.slice("_taxa", 2, F.size("_taxa")),
        lambda taxon: F.struct(*(taxon[field.name].alias(field.name) for field in _RUNNER_UP.fields)),
    )
    return {
        "occurrenceID": _occurrence_id(),
        "basisOfRecord": F.lit("MachineObservation"),
        "occurrenceStatus": F.when(best.isNotNull(), F.lit("present")),
        "organismID": F.col("individual_id"),
        "datasetID": F.col("deployment.project.id"),
        "datasetName": F.col("deployment.project.name"),
        "eventID": F.col("analysis_group_id"),
        "parentEventID": F.col("deployment_id"),
        "eventDate": times,
        "samplingProtocol": F.col("sensor.type"),
        "samplingEffort": F.when(start.isNotNull() & end.isNotNull(), _interval(start, end)),
        "habitat": F.col("deployment.habitat"),
        "locality": F.col("deployment.name"),
        "decimalLatitude": location["latitude"],
        "decimalLongitude": location["longitude"],
        "geodeticDatum": F.when(has_position, F.lit("EPSG:4326")),
        "coordinateUncertaintyInMeters": location["coordinate_uncertainty_m"],
        "minimumElevationInMeters": location["elevation_m"],
        "maximumElevationInMeters": location["elevation_m"],
        "scientificName": best["scientificName"],
        "taxonID": best["taxonID"],
        "nameAccordingTo": _text(" ", taxonomy["namespace"], taxonomy["version"]),
        "identifiedBy": _text(" ", F.col("algorithm.name"), F.col("algorithm.version")),
        "identifiedByID": F.col("algorithm_id"),
        "dateIdentified": F.date_format("generated_at", _SECONDS),
        "identificationRemarks": _remarks(best),
        "associatedMedia": F.when(F.size("_uris") > 0, F.array_join("_uris", " | ")),
        "probability": best["probability"],
        "runnersUp": others,
        "resultID": F.col("result_id"),
        "regionGroupID": F.col("region_group_id"),
        "sensorID": F.col("deployment.sensor_id"),
        "delivery": F.col(DELIVERY_COLUMN),
    }


def _occurrence_id() -> Column:
    def escaped(name: str) -> Column:
        return F.replace(F.replace(F.col(name), F.lit("%"), F.lit("%25")), F.lit("/"), F.lit("%2F"))

    times = F.count(F.lit(1)).over(Window.partitionBy("result_id", "region_group_id"))
    has_own = F.col("region_group_id").isNotNull() & (F.col("region_group_id") != "") & (times == 1)
    return F.when(has_own, F.concat(escaped("result_id"), F.lit("/"), escaped("region_group_id"))).otherwise(
        F.concat(escaped("result_id"), F.lit("//"), F.col("region_group_index").cast("string"))
    )


def _interval(start: Column, end: Column) -> Column:
    first, last = F.date_format(start, _SECONDS), F.date_format(end, _SECONDS)
    return F.when(first == last, first).otherwise(F.concat(first, F.lit("/"), last))


def _text(separator: str, *parts: Column) -> Column:
    """What there is of some texts; null if there is none of them."""
    return F.nullif(F.concat_ws(separator, *parts), F.lit(""))


def _remarks(best: Column) -> Column:
    probability = best["probability"]
    # As a decimal, for the engines write a double differently.
    rounded = F.when(probability.between(0, 1), F.round(probability, 4).cast("decimal(5,4)").cast("string"))
    service = _text(" ", F.col("generated_tag"), F.col("generated_version"))
    return _text(
        "; ",
        F.when(best.isNull(), F.lit("no taxon predicted")),
        F.concat(F.lit("probability "), rounded),
        best["taxa_type"],
        F.concat(F.lit("algorithm tagged "), F.col("algorithm.tag")),
        F.concat(F.lit("service "), service),
        F.concat(F.lit("parameters "), F.col("generated_parameters")),
    )
