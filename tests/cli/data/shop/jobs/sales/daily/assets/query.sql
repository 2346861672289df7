insert into {{ .JOB_DESTINATION }}
select 1 where day = '{{ .DSTART | Date }}'{{ template "parts/more.tmpl" . }}
