// What the SQL console knows of SQL: its words, and how a text falls apart into pieces of one kind.

const KEYWORDS = new Set(`SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT OFFSET AS AND OR NOT IN IS NULL LIKE ILIKE BETWEEN CASE WHEN THEN ELSE END JOIN LEFT RIGHT
 FULL INNER CROSS ASOF ON USING UNION ALL DISTINCT EXCEPT INTERSECT WITH RECURSIVE ASC DESC NULLS FIRST LAST OVER PARTITION ROWS RANGE PRECEDING FOLLOWING CURRENT ROW
 UNBOUNDED FILTER INTERVAL DAY HOUR MINUTE SECOND WEEK MONTH YEAR CAST TRUE FALSE EXISTS ANY VALUES QUALIFY WINDOW EXCLUDE REPLACE COLUMNS SUMMARIZE DESCRIBE SHOW
 TABLES PIVOT UNPIVOT LATERAL SAMPLE`.split(/\s+/))
const FUNCTIONS = `count sum avg min max median quantile_cont round coalesce nullif date_trunc time_bucket strftime now arg_max arg_min list string_agg
 approx_quantile stddev mode histogram lag lead row_number rank ntile regexp_matches lower upper length contains extract epoch_ms greatest least abs ln log10 any_value
 bool_or unnest range generate_series`.split(/\s+/)
const PIECES = /(--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))|('(?:[^']|'')*'?)|("(?:[^"]|"")*"?)|(\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\b)|([A-Za-z_]\w*)/gi

/** The text as elements: comments, strings, names, numbers, keywords and functions marked. */
function painted(text) {
  const nodes = []
  let done = 0
  for (const match of text.matchAll(PIECES)) {
    const [piece, comment, string, quoted, number] = match
    const kind = comment ? "comment" : string ? "string" : quoted ? "quoted" : number ? "figure" : KEYWORDS.has(piece.toUpperCase()) ? "keyword"
      : /^\s*\(/.test(text.slice(match.index + piece.length, match.index + piece.length + 3)) ? "function" : ""
    if (!kind) continue
    nodes.push(text.slice(done, match.index), h("span", {class: kind}, piece))
    done = match.index + piece.length
  }
  nodes.push(text.slice(done))
  return nodes
}

/** A name as SQL needs it: quoted where it is a word of SQL or has odd letters. */
function sqlName(name) {
  return /^[a-z_][a-z0-9_]*$/i.test(name) && !KEYWORDS.has(name.toUpperCase()) ? name : `"${name.replaceAll('"', '""')}"`
}

// --- types ----------------------------------------------------------------------------------------------------------

const NUMBERS = /^(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT|U(TINY|SMALL|BIG|HUGE)INT|UINTEGER|DOUBLE|FLOAT|DECIMAL)/
const MOMENTS = /^(TIMESTAMP|DATE)/

/** "number", "time" or "text": how a column of DuckDB's type is shown and drawn. */
function kindOf(type) {
  if (/\]$/.test(type)) return "text"
  return NUMBERS.test(type) ? "number" : MOMENTS.test(type) ? "time" : "text"
}

/** A short word for a type: an ENUM's values are many. */
function shortType(type) {
  if (type.startsWith("ENUM")) return "enum"
  if (type.startsWith("STRUCT")) return type.endsWith("[]") ? "structs" : "struct"
  return type.replace("TIMESTAMP WITH TIME ZONE", "timestamptz").toLowerCase()
}

/** A cell as text; null is null. A number beyond 2^53 came as text and stays as it is. */
function cellText(value) {
  if (value == null) return null
  return typeof value === "object" ? JSON.stringify(value) : String(value)
}

/** What two cells of a kind are compared by. */
function sortKey(value, kind) {
  if (value == null) return null
  if (kind === "number") return Number(value)
  if (kind === "time") return Date.parse(/[Z+]/.test(value) || !value.includes("T") ? value : `${value}Z`)
  return typeof value === "boolean" ? Number(value) : cellText(value)
}
