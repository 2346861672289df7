insert into {{ .JOB_DESTINATION }}
select id, customer, amount
from shop.events
where {{ template "where.tmpl" . }}
{{- if ne .GLOBAL__retention_days "0" }}
  and created_at > current_date - {{ .GLOBAL__retention_days }}
{{- end }}
