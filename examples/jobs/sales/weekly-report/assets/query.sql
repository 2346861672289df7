select count(*) from sales.orders where day between '{{ .START_DATE }}' and '{{ .END_DATE }}'
